"""What each journal entry becomes in MLflow. Recording an entry twice leaves what recording it once leaves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import LonglagError
from study.outcome import Metric, Status, TrialKey
from study.tracking import server
from study.tracking.artifact import draw_answer, final_metrics, stamped, write_artifacts
from study.tracking.entry import (
    Entry,
    MetricsLogged,
    StudyClosed,
    StudyOpened,
    TrialClosed,
    TrialEntry,
    TrialInterrupted,
    TrialOpened,
)
from study.tracking.server import MODEL, STUDY, TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROLE, STATUS, LOGGED = "longlag.role", "longlag.status", "longlag.logged_updates"
"""Tags: ``study`` on the parent run; where the trial is; up to which update its metrics are in MLflow."""

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tag by which MLflow's UI shows an experiment as runs with metrics instead of as traces of a language model."""

BATCH = 800
"""Metrics of one request: MLflow takes 1000 entities, up to 100 of them parameters and as many tags."""

LONGEST_TEXT = 5000
"""Characters of a parameter or tag; MLflow refuses parameters of more than 6000."""

BEST = {"loss": min, "interim/objective": max, "interim/dependency_length": max}
"""Metrics whose best value is kept as ``best/<name>``, because MLflow's table and queries know only the last one."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a study lies in MLflow; ``runs`` are its trials', whose metrics are there up to the update ``logged``.

    ``best`` holds the best values of the trials whose runs began here; what others reported earlier, MLflow knows.
    """

    client: MlflowClient
    experiment_id: str
    parents: list[str]
    runs: dict[TrialKey, str]
    logged: dict[TrialKey, int]
    best: dict[TrialKey, dict[str, float]]


@dataclass(kw_only=True)
class _Batch:
    """What goes to one run in one request, but for more metrics than one takes."""

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
        self._place: _Place | None = None
        self.run_ids: Mapping[TrialKey, str] = {}

    def forget(self) -> None:
        """Look everything up again next time, because the last call may or may not have done its work."""
        self._place = None

    def sentence(self, error: Exception) -> str:
        """What went wrong, in one line."""
        text = server.one_line(error, self._uri)
        return text if isinstance(error, LonglagError) else f"tracking: {text}"

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
                        self._end(self._run_id(key, time_ms), "KILLED", batch, time_ms)
                        batch = _Batch()
            if batch.parameters or batch.metrics or batch.tags:
                self._send(self._run_id(key, _time_ms(entries[0])), batch)

    def _open_study(self, entry: StudyOpened) -> None:
        run_id = self._parent_id(entry.time_ms)
        lacking = self._take_up(run_id, entry.parameters)
        self._send(run_id, _Batch(parameters=lacking, tags={STATUS: str(Status.RUNNING)}))
        self._at().client.log_text(run_id, entry.specification, "study.yaml")

    def _open_trial(self, entry: TrialOpened, batch: _Batch) -> None:
        card, known = entry.card, entry.key in self._at().runs
        run_id = self._run_id(card.key, entry.time_ms)
        batch.parameters |= self._take_up(run_id, card.parameters) if known else card.parameters
        batch.tags |= {"longlag.task": card.task, "longlag.cell": card.cell, STATUS: str(Status.RUNNING)}
        self._at().client.log_text(run_id, card.configuration, "study.yaml")

    def _take_metrics(self, entry: MetricsLogged, batch: _Batch) -> None:
        """Add what MLflow lacks of an entry, and how far the metrics then go."""
        place = self._at()
        held = place.logged.get(entry.key, -1)
        fresh = [metric for metric in entry.metrics if metric.update > held]
        if not fresh:
            return
        self._run_id(entry.key, fresh[0].time_ms)
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
        run_id = self._run_id(entry.key, entry.time_ms)
        batch.tags |= {STATUS: str(outcome.status), "longlag.diverged": str(outcome.diverged).lower()}
        if outcome.status is Status.FAILED:
            # The last line of a traceback names the error; the whole of it is an artifact.
            batch.tags["longlag.reason"] = (outcome.reason.strip().splitlines() or [""])[-1]
        else:
            best = {f"best/{name}": value for name, value in self._best(entry.key, batch).items()}
            batch.metrics += stamped(final_metrics(outcome) | best, outcome.n_updates, entry.time_ms)
            if outcome.bound_verdict is not None:
                batch.tags["longlag.bound"] = outcome.bound_verdict
        with tempfile.TemporaryDirectory() as folder:
            write_artifacts(Path(folder), entry)
            self._at().client.log_artifacts(run_id, folder)
        self._end(run_id, "FAILED" if outcome.status is Status.FAILED else "FINISHED", batch, entry.time_ms)
        if entry.weights is not None:
            Path(entry.weights).unlink(missing_ok=True)

    def _close_study(self, entry: StudyClosed) -> None:
        run_id = self._parent_id(entry.time_ms)
        values = {f"dependency_length/{row.model}": float(row.best.dependency_length) for row in entry.answers}
        if entry.seconds:
            values |= {f"seconds/{name}": value for name, value in entry.seconds.items()}
            # All that this thread has done so far is tracking.
            values["seconds/tracking"] = time.thread_time()
        if entry.answers:
            with tempfile.TemporaryDirectory() as folder:
                draw_answer(Path(folder) / "answer.png", entry.answers, self._study)
                self._at().client.log_artifacts(run_id, folder)
        ends = {"done": "FINISHED", "failed": "FAILED"}
        batch = _Batch(metrics=stamped(values, 0, entry.time_ms), tags={STATUS: entry.status})
        self._end(run_id, ends.get(entry.status, "KILLED"), batch, entry.time_ms)

    def _at(self) -> _Place:
        """Where the study lies; looked up, and created where it is missing, on the first call and after ``forget``."""
        if self._place is None:
            self._client = self._client or server.connect(self._uri)
            experiment = self._client.get_experiment_by_name(self._study)
            if experiment is None:
                experiment_id = self._client.create_experiment(self._study, self._artifact_location(), TRAINING)
            elif experiment.lifecycle_stage == "active":
                experiment_id = experiment.experiment_id
            else:
                raise LonglagError(
                    f"experiment {self._study!r} must not be deleted in MLflow while it is recorded, but it is: "
                    "restore it there"
                )
            runs = server.runs_of(self._client, experiment_id)
            keyed = [(key, run) for run in reversed(runs) if (key := server.trial_key(run)) is not None]
            self._place = _Place(
                client=self._client,
                experiment_id=experiment_id,
                parents=[run.info.run_id for run in runs if run.data.tags.get(ROLE) == "study"],
                runs={key: run.info.run_id for key, run in keyed},
                logged={key: int(run.data.tags.get(LOGGED, "-1")) for key, run in keyed},
                best={},
            )
            self.run_ids = dict(self._place.runs)
        return self._place

    def _artifact_location(self) -> str | None:
        """Beside an SQLite database, whose client would else put artifacts where the process happens to run."""
        file = server.database_file(self._uri)
        return None if file is None else (file.parent / "artifacts" / self._study).as_uri()

    def _parent_id(self, time_ms: int) -> str:
        place = self._at()
        if not place.parents:
            tags = {STUDY: self._study, ROLE: "study"}
            run = place.client.create_run(place.experiment_id, time_ms, tags, self._study)
            place.parents.append(run.info.run_id)
        return place.parents[0]

    def _run_id(self, key: TrialKey, time_ms: int) -> str:
        place = self._at()
        if key not in place.runs:
            tags = {
                "mlflow.parentRunId": self._parent_id(time_ms),
                STUDY: key.study,
                MODEL: key.model,
                TRIAL: str(key),
                STATUS: str(Status.RUNNING),
            }
            run = place.client.create_run(place.experiment_id, time_ms, tags, f"{key.model}/{key.number}")
            place.runs[key], place.best[key] = run.info.run_id, {}
            self.run_ids = dict(place.runs)
        return place.runs[key]

    def _take_up(self, run_id: str, parameters: Mapping[str, object]) -> dict[str, object]:
        """Set a run running that may have ended; which of the parameters it lacks."""
        client = self._at().client
        run = client.get_run(run_id)
        if run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")
        return {name: value for name, value in parameters.items() if name not in run.data.params}

    def _send(self, run_id: str, batch: _Batch) -> None:
        """Send a batch; its tags go with the last metrics, when all others have arrived."""
        from mlflow.entities import Metric as Row
        from mlflow.entities import Param, RunTag

        rows = [Row(metric.name, metric.value, metric.time_ms, metric.update) for metric in batch.metrics]
        parameters = [Param(name, str(value)[:LONGEST_TEXT]) for name, value in batch.parameters.items()]
        for start in range(0, max(1, len(rows)), BATCH):
            last = start + BATCH >= len(rows)
            tags = [RunTag(name, value[:LONGEST_TEXT]) for name, value in batch.tags.items()] if last else []
            self._at().client.log_batch(run_id, metrics=rows[start : start + BATCH], params=parameters, tags=tags)
            parameters = []

    def _best(self, key: TrialKey, batch: _Batch) -> dict[str, float]:
        """The best value of each metric in ``BEST``, of those in the batch and of those sent before."""
        place = self._at()
        if key in place.best:
            return place.best[key]
        values: dict[str, list[float]] = {name: [] for name in BEST}
        for name, held in values.items():
            held += [row.value for row in place.client.get_metric_history(place.runs[key], name)]
            held += [metric.value for metric in batch.metrics if metric.name == name]
        return {name: BEST[name](held) for name, held in values.items() if held}

    def _end(self, run_id: str, status: str, batch: _Batch, time_ms: int) -> None:
        self._send(run_id, batch)
        self._at().client.set_terminated(run_id, status, time_ms)


def _time_ms(entry: TrialEntry) -> int:
    """When it was written, or its first value measured."""
    return entry.metrics[0].time_ms if isinstance(entry, MetricsLogged) else entry.time_ms


def refused(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never grant it; every other error may pass."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
