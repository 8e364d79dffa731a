"""What each journal entry becomes in MLflow. Recording an entry twice leaves what recording it once leaves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from study.errors import LonglagError
from study.outcome import Metric, Status, TrialKey
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
from study.tracking.place import LOGGED, STATUS, Place, RunPlace

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONFIGURATION = "study.yaml"
"""Name of the artifact that ``launch`` can run."""

BATCH = 800
"""Metrics of one request: MLflow takes 1000 entities, up to 100 of them parameters and as many tags."""

LONGEST_TEXT = 5000
"""Characters of a parameter or tag; MLflow refuses parameters of more than 6000."""

BEST = {"loss": min, "interim/objective": max, "interim/dependency_length": max}
"""Metrics whose best value is kept as ``best/<name>``, because MLflow's table and queries know only the last one."""


@dataclass(kw_only=True)
class _Batch:
    """What goes to one run together: artifacts, then in one request, but for more metrics than one takes, the rest."""

    files: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


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
        for key, entries in lives.items():
            batch = _Batch()
            for entry in entries:
                match entry:
                    case TrialOpened():
                        self._open_trial(entry, batch)
                    case MetricsLogged():
                        self._take_metrics(entry, batch)
                    case TrialClosed():
                        self._close_trial(entry, batch)
                        batch = _Batch()
                    case TrialInterrupted(time_ms=time_ms):
                        batch.tags[STATUS] = "interrupted"
                        self._end(self._run(key, time_ms), "KILLED", batch, time_ms)
                        batch = _Batch()
            if batch != _Batch():
                self._send(self._run(key, written_ms(entries[0])), batch)

    def _open_study(self, entry: StudyOpened) -> None:
        run = self._at().parent(entry.time_ms)
        batch = _Batch(parameters=self._take_up(run, entry.parameters), tags={STATUS: str(Status.RUNNING)})
        batch.files[CONFIGURATION] = entry.specification.encode()
        self._send(run, batch)

    def _open_trial(self, entry: TrialOpened, batch: _Batch) -> None:
        card = entry.card
        tags = {"longlag.task": card.task, "longlag.cell": card.cell}
        known = card.key in self._at().runs
        run = self._run(card.key, entry.time_ms, tags)
        if known:
            batch.tags |= {**tags, STATUS: str(Status.RUNNING)}
        batch.parameters |= self._take_up(run, card.parameters) if known else card.parameters
        batch.files[CONFIGURATION] = card.configuration.encode()

    def _take_metrics(self, entry: MetricsLogged, batch: _Batch) -> None:
        """Add what MLflow lacks of an entry, and how far the metrics then go."""
        place = self._at()
        held = place.logged.get(entry.key, -1)
        fresh = [metric for metric in entry.metrics if metric.update > held]
        if not fresh:
            return
        self._run(entry.key, fresh[0].time_ms)
        # Ahead of the sending; should that fail, everything here is forgotten.
        place.logged[entry.key] = max(metric.update for metric in fresh)
        batch.metrics += fresh
        batch.tags[LOGGED] = str(place.logged[entry.key])
        best = place.best.get(entry.key)
        if best is not None:
            for metric in fresh:
                if metric.name in BEST:
                    best[metric.name] = BEST[metric.name](metric.value, best.get(metric.name, metric.value))

    def _close_trial(self, entry: TrialClosed, batch: _Batch) -> None:
        outcome = entry.outcome
        run = self._run(entry.key, entry.time_ms)
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
        self._end(run, "FAILED" if outcome.status is Status.FAILED else "FINISHED", batch, entry.time_ms)
        self._at().end(entry.key)
        if entry.weights is not None:
            Path(entry.weights).unlink(missing_ok=True)

    def _close_study(self, entry: StudyClosed) -> None:
        values = {f"dependency_length/{row.model}": float(row.best.dependency_length) for row in entry.answers}
        if entry.seconds:
            values |= {f"seconds/{name}": value for name, value in entry.seconds.items()}
            # All that this thread has done so far, imports included, is tracking.
            values["seconds/tracking"] = time.thread_time()
        batch = _Batch(metrics=stamped(values, 0, entry.time_ms), tags={STATUS: entry.status})
        if entry.answers:
            batch.files["answer.png"] = drawn_answer(entry.answers, self._study)
        ends = {"done": "FINISHED", "failed": "FAILED"}
        self._end(self._at().parent(entry.time_ms), ends.get(entry.status, "KILLED"), batch, entry.time_ms)

    def _at(self) -> Place:
        """Where the study lies; looked up on the first call and after ``forget``."""
        if self._place is None:
            self._client = self._client or server.connect(self._uri)
            self._place = Place(self._client, self._uri, self._study)
            self._runs = self._place.runs
        return self._place

    def _run(self, key: TrialKey, time_ms: int, tags: Mapping[str, str] = MappingProxyType({})) -> RunPlace:
        return self._at().run(key, time_ms, tags)

    def _take_up(self, run: RunPlace, parameters: Mapping[str, object]) -> dict[str, object]:
        """Set a run running that may have ended; which of the parameters it lacks."""
        client = self._at().client
        found = client.get_run(run.run_id)
        if found.info.status != "RUNNING":
            client.update_run(run.run_id, "RUNNING")
        return {name: value for name, value in parameters.items() if name not in found.data.params}

    def _send(self, run: RunPlace, batch: _Batch) -> None:
        """Send a batch; its tags go with the last metrics, when all others have arrived."""
        from mlflow.entities import Metric as Row
        from mlflow.entities import Param, RunTag

        if batch.files:
            self._at().upload(run, batch.files)
        # The newest first: of each name MLflow then takes the first for the latest, and writes it once.
        rows = [Row(metric.name, metric.value, metric.time_ms, metric.update) for metric in reversed(batch.metrics)]
        parameters = [Param(name, str(value)[:LONGEST_TEXT]) for name, value in batch.parameters.items()]
        for start in range(0, max(1, len(rows)), BATCH):
            last = start + BATCH >= len(rows)
            tags = [RunTag(name, value[:LONGEST_TEXT]) for name, value in batch.tags.items()] if last else []
            self._at().client.log_batch(run.run_id, rows[start : start + BATCH], parameters, tags)
            parameters = []

    def _best(self, key: TrialKey, batch: _Batch) -> dict[str, float]:
        """The best value of each metric in ``BEST``, of those in the batch and of those sent before."""
        place = self._at()
        if key in place.best:
            return place.best[key]
        values: dict[str, list[float]] = {name: [] for name in BEST}
        for name, held in values.items():
            held += [row.value for row in place.client.get_metric_history(place.runs[key].run_id, name)]
            held += [metric.value for metric in batch.metrics if metric.name == name]
        return {name: BEST[name](held) for name, held in values.items() if held}

    def _end(self, run: RunPlace, status: str, batch: _Batch, time_ms: int) -> None:
        self._send(run, batch)
        self._at().client.set_terminated(run.run_id, status, time_ms)


def refused(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never grant it; every other error may pass."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
