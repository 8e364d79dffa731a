"""What each journal entry becomes in MLflow. Recording an entry twice leaves what recording it once leaves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import LonglagError
from study.outcome import Status, TrialKey
from study.tracking import server
from study.tracking.artifact import artifacts, drawn_answer, final_metrics, stamped
from study.tracking.entry import (
    Entry,
    MetricsLogged,
    StudyClosed,
    StudyOpened,
    TrialClosed,
    TrialEntry,
    TrialInterrupted,
    TrialOpened,
    written_ms,
)
from study.tracking.place import LOGGED, STATUS, Place
from study.tracking.rows import Told
from study.tracking.run import RUNNING, Batch, RunPlace, Standing

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONFIGURATION = "study.yaml"
"""Name of the artifact that ``launch`` can run."""

BATCH = 800
"""Metrics of one request: MLflow takes 1000 entities, up to 100 of them parameters and as many tags."""

TOGETHER = 64
"""Trials that are written together at most, where that can be done; more would not be faster."""

BEST = {"loss": min, "interim/objective": max, "interim/dependency_length": max}
"""Metrics whose best value is kept as ``best/<name>``, because MLflow's table and queries know only the last one."""


class Recorder:
    """Writes entries of one study to MLflow, one experiment with a parent run and a child run for each trial.

    Runs are found again by their tags, never created twice. A trial that is trained again from a checkpoint reports
    updates again; those up to the one that the run's tag names are left out. The tag follows its metrics: whoever dies
    in between sends the same metrics again, and equal ones (name, update, time, value) are one row of the database.
    """

    def __init__(self, uri: str, study: str) -> None:
        """A recorder that has not asked anything of MLflow yet."""
        self._uri, self._study = uri, study
        self._client: MlflowClient | None = None
        self._place: Place | None = None
        self._runs: dict[TrialKey, RunPlace] = {}

    def run_ids(self) -> dict[TrialKey, str]:
        """The runs of the trials, as far as they are known yet."""
        return {key: run.run_id for key, run in self._runs.copy().items()}

    def forget(self) -> None:
        """Look everything up again next time, because the last call may or may not have done its work."""
        self._place = None

    def sentence(self, error: Exception) -> str:
        """What went wrong, in one line."""
        return str(error) if isinstance(error, LonglagError) else f"tracking: {server.one_line(error, self._uri)}"

    def record(self, entries: Iterable[Entry]) -> None:
        """Do what the entries say, those of one trial together; raises whatever MLflow raises."""
        lives: dict[TrialKey, list[TrialEntry]] = {}
        for entry in entries:
            if not isinstance(entry, StudyOpened | StudyClosed):
                lives.setdefault(entry.key, []).append(entry)
                continue
            self._record_lives(lives)
            lives = {}
            if isinstance(entry, StudyOpened):
                self._open_study(entry)
            else:
                self._close_study(entry)
        self._record_lives(lives)

    def _record_lives(self, lives: Mapping[TrialKey, Sequence[TrialEntry]]) -> None:
        single = dict(lives)
        plain = [key for key, entries in lives.items() if _one_life(entries)]
        for start in range(0, len(plain), TOGETHER):
            runs = self._at().together({key: written_ms(lives[key][0]) for key in plain[start : start + TOGETHER]})
            if runs:
                self._record_together(runs, {key: single.pop(key) for key in runs})
        for key, entries in single.items():
            self._record_life(key, entries)

    def _record_together(self, runs: Mapping[TrialKey, Told], lives: Mapping[TrialKey, Sequence[TrialEntry]]) -> None:
        """Trials each in one batch; dying here leaves files that the next try will overwrite."""
        for key, entries in lives.items():
            batch = runs[key].batch
            if isinstance(entries[0], TrialOpened):
                batch.standing = RUNNING
            for entry in entries:
                self._take(entry, batch)
            self._upload(runs[key].place, batch)
            # Weights are in it, which need not be in memory for all of them.
            batch.files.clear()
        self._at().write(runs)
        for entries in lives.values():
            self._settle(entries[-1])

    def _record_life(self, key: TrialKey, entries: Sequence[TrialEntry]) -> None:
        """A trial by itself, by MLflow's client."""
        batch = Batch()
        for entry in entries:
            known = key in self._at().runs
            run = self._at().run(key, written_ms(entry), _labels(entry))
            self._take(entry, batch)
            if known and isinstance(entry, TrialOpened):
                batch.parameters = self._take_up(run, batch.parameters)
            if batch.standing is not None:
                self._send(run, batch)
                self._settle(entry)
                batch = Batch()
        if batch != Batch():
            self._send(self._at().runs[key], batch)

    def _take(self, entry: TrialEntry, batch: Batch) -> None:
        """Add what an entry says of a trial, which has a run."""
        match entry:
            case TrialOpened(card=card):
                batch.tags |= {**_labels(entry), STATUS: str(Status.RUNNING)}
                batch.parameters |= card.parameters
                batch.files[CONFIGURATION] = card.configuration.encode()
            case MetricsLogged():
                self._take_metrics(entry, batch)
            case TrialClosed():
                self._take_end(entry, batch)
            case TrialInterrupted(time_ms=time_ms):
                batch.tags[STATUS] = "interrupted"
                batch.standing = Standing(status="KILLED", end_ms=time_ms)

    def _take_metrics(self, entry: MetricsLogged, batch: Batch) -> None:
        """Add what MLflow lacks of an entry, and how far the metrics then go."""
        place = self._at()
        held = place.logged.get(entry.key, -1)
        fresh = [metric for metric in entry.metrics if metric.update > held]
        if not fresh:
            return
        # Ahead of the sending; should that fail, everything here is forgotten.
        place.logged[entry.key] = max(metric.update for metric in fresh)
        batch.metrics += fresh
        batch.tags[LOGGED] = str(place.logged[entry.key])
        best = place.best.get(entry.key)
        if best is not None:
            for metric in fresh:
                if metric.name in BEST:
                    best[metric.name] = BEST[metric.name](metric.value, best.get(metric.name, metric.value))

    def _take_end(self, entry: TrialClosed, batch: Batch) -> None:
        outcome = entry.outcome
        batch.tags |= {STATUS: str(outcome.status), "longlag.diverged": str(outcome.diverged).lower()}
        if outcome.status is Status.FAILED:
            # The last line of a traceback names the error; the whole of it is an artifact.
            batch.tags["longlag.reason"] = (outcome.reason.strip().splitlines() or [""])[-1]
        else:
            best = {f"best/{name}": value for name, value in self._best(entry.key, batch).items()}
            batch.metrics += stamped(final_metrics(outcome) | best, outcome.n_updates, entry.time_ms)
            if outcome.bound_verdict is not None:
                batch.tags["longlag.bound"] = outcome.bound_verdict
        batch.files |= artifacts(entry)
        status = "FAILED" if outcome.status is Status.FAILED else "FINISHED"
        batch.standing = Standing(status=status, end_ms=entry.time_ms)

    def _settle(self, last: TrialEntry) -> None:
        """MLflow has all of a trial up to this entry."""
        if isinstance(last, TrialClosed):
            self._at().end(last.key)
            if last.weights is not None:
                Path(last.weights).unlink(missing_ok=True)

    def _open_study(self, entry: StudyOpened) -> None:
        run = self._at().parent(entry.time_ms)
        batch = Batch(parameters=self._take_up(run, entry.parameters), tags={STATUS: str(Status.RUNNING)})
        batch.files[CONFIGURATION] = entry.specification.encode()
        self._send(run, batch)

    def _close_study(self, entry: StudyClosed) -> None:
        values = {f"dependency_length/{row.model}": float(row.best.dependency_length) for row in entry.answers}
        if entry.seconds:
            values |= {f"seconds/{name}": value for name, value in entry.seconds.items()}
            # All that this thread has done so far, imports included, is tracking.
            values["seconds/tracking"] = time.thread_time()
        ends = {"done": "FINISHED", "failed": "FAILED"}
        batch = Batch(
            metrics=stamped(values, 0, entry.time_ms),
            tags={STATUS: entry.status},
            standing=Standing(status=ends.get(entry.status, "KILLED"), end_ms=entry.time_ms),
        )
        if entry.answers:
            batch.files["answer.png"] = drawn_answer(entry.answers, self._study)
        self._send(self._at().parent(entry.time_ms), batch)

    def _at(self) -> Place:
        """Where the study lies; looked up on the first call and after ``forget``."""
        if self._place is None:
            self._client = self._client or server.connect(self._uri)
            self._place = Place(self._client, self._uri, self._study)
            self._runs = self._place.runs
        return self._place

    def _take_up(self, run: RunPlace, parameters: Mapping[str, object]) -> dict[str, object]:
        """Set a run running that may have ended; which of the parameters it lacks."""
        client = self._at().client
        found = client.get_run(run.run_id)
        if found.info.status != "RUNNING":
            client.update_run(run.run_id, "RUNNING")
        return {name: value for name, value in parameters.items() if name not in found.data.params}

    def _send(self, run: RunPlace, batch: Batch) -> None:
        """Send a batch by MLflow's client; its tags go with the last metrics, when all others have arrived."""
        self._upload(run, batch)
        client = self._at().client
        # The newest first: of each name MLflow then takes the first for the latest, and writes it once.
        metrics, parameters, tags = batch.entities()
        for start in range(0, max(1, len(metrics)), BATCH):
            last = start + BATCH >= len(metrics)
            client.log_batch(run.run_id, metrics[start : start + BATCH], parameters, tags if last else [])
            parameters = []
        if batch.standing is not None:
            client.set_terminated(run.run_id, batch.standing.status, batch.standing.end_ms)

    def _upload(self, run: RunPlace, batch: Batch) -> None:
        if batch.files:
            self._at().upload(run, batch.files)

    def _best(self, key: TrialKey, batch: Batch) -> dict[str, float]:
        """The best value of each metric in ``BEST``, of those in the batch and of those sent before."""
        place = self._at()
        if key in place.best:
            return place.best[key]
        values: dict[str, list[float]] = {name: [] for name in BEST}
        for name, held in values.items():
            held += [row.value for row in place.client.get_metric_history(place.runs[key].run_id, name)]
            held += [metric.value for metric in batch.metrics if metric.name == name]
        return {name: BEST[name](held) for name, held in values.items() if held}


def _one_life(entries: Sequence[TrialEntry]) -> bool:
    """Whether they are of a trial that is opened once at most, first of all, and has nothing after its end."""
    over = any(isinstance(entry, TrialClosed | TrialInterrupted) for entry in entries[:-1])
    return not over and not any(isinstance(entry, TrialOpened) for entry in entries[1:])


def _labels(entry: TrialEntry) -> dict[str, str]:
    if not isinstance(entry, TrialOpened):
        return {}
    return {"longlag.task": entry.card.task, "longlag.cell": entry.card.cell}


def refused(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never grant it; every other error may pass."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
