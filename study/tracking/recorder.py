"""What each journal entry becomes in MLflow. Recording an entry twice leaves what recording it once leaves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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

BATCH = 999
"""Metrics of one request: MLflow takes 1000 entities, one of which is the tag that says how far they go."""

LONGEST_TEXT = 5000
"""Characters of a parameter or tag; MLflow refuses parameters of more than 6000."""

BEST = {"loss": min, "interim/objective": max, "interim/dependency_length": max}
"""Metrics whose best value is kept as ``best/<name>``, because MLflow's table and queries know only the last one."""


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a study lies in MLflow; ``runs`` are its trials', whose metrics are there up to the update ``logged``."""

    client: MlflowClient
    experiment_id: str
    parents: list[str]
    runs: dict[TrialKey, str]
    logged: dict[TrialKey, int]


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

    def record(self, entry: Entry) -> None:
        """Do what one entry says; raises whatever MLflow raises."""
        match entry:
            case StudyOpened():
                self._open_study(entry)
            case TrialOpened():
                self._open_trial(entry)
            case MetricsLogged():
                self.record_metrics([entry])
            case TrialClosed():
                self._close_trial(entry)
            case TrialInterrupted(key=key, time_ms=time_ms):
                self._end(self._run_id(key, time_ms), "KILLED", {STATUS: "interrupted"}, time_ms)
            case StudyClosed():
                self._close_study(entry)

    def record_metrics(self, entries: Iterable[MetricsLogged]) -> None:
        """Send metrics, those of one trial together."""
        place = self._at()
        merged: dict[TrialKey, list[Metric]] = {}
        for entry in entries:
            held = place.logged.get(entry.key, -1)
            if fresh := [metric for metric in entry.metrics if metric.update > held]:
                merged.setdefault(entry.key, []).extend(fresh)
                # Ahead of the sending; should that fail, everything here is forgotten.
                place.logged[entry.key] = max(metric.update for metric in fresh)
        for key, metrics in merged.items():
            self._log(self._run_id(key, metrics[0].time_ms), metrics, {LOGGED: str(place.logged[key])})

    def _open_study(self, entry: StudyOpened) -> None:
        run_id = self._parent_id(entry.time_ms)
        self._describe(run_id, entry.parameters, {STATUS: str(Status.RUNNING)})
        self._at().client.log_text(run_id, entry.specification, "study.yaml")

    def _open_trial(self, entry: TrialOpened) -> None:
        card = entry.card
        run_id = self._run_id(card.key, entry.time_ms)
        tags = {"longlag.task": card.task, "longlag.cell": card.cell, STATUS: str(Status.RUNNING)}
        self._describe(run_id, card.parameters, tags)
        self._at().client.log_text(run_id, card.configuration, "study.yaml")

    def _close_trial(self, entry: TrialClosed) -> None:
        outcome, client = entry.outcome, self._at().client
        run_id = self._run_id(entry.key, entry.time_ms)
        tags = {STATUS: str(outcome.status), "longlag.diverged": str(outcome.diverged).lower()}
        if outcome.status is Status.FAILED:
            # The last line of a traceback names the error; the whole of it is an artifact.
            tags["longlag.reason"] = (outcome.reason.strip().splitlines() or [""])[-1]
        else:
            values = final_metrics(outcome) | self._best_metrics(run_id)
            self._log(run_id, stamped(values, outcome.n_updates, entry.time_ms), {})
        with tempfile.TemporaryDirectory() as folder:
            write_artifacts(Path(folder), entry)
            client.log_artifacts(run_id, folder)
        self._end(run_id, "FAILED" if outcome.status is Status.FAILED else "FINISHED", tags, entry.time_ms)
        if entry.weights is not None:
            Path(entry.weights).unlink(missing_ok=True)

    def _close_study(self, entry: StudyClosed) -> None:
        run_id = self._parent_id(entry.time_ms)
        if entry.seconds:
            # All that this thread has done so far is tracking.
            spent = {f"seconds/{name}": value for name, value in entry.seconds.items()}
            spent["seconds/tracking"] = time.thread_time()
            self._log(run_id, stamped(spent, 0, entry.time_ms), {})
        if entry.answers:
            lengths = {f"dependency_length/{row.model}": float(row.best.dependency_length) for row in entry.answers}
            self._log(run_id, stamped(lengths, 0, entry.time_ms), {})
            with tempfile.TemporaryDirectory() as folder:
                draw_answer(Path(folder) / "answer.png", entry.answers, self._study)
                self._at().client.log_artifacts(run_id, folder)
        ends = {"done": "FINISHED", "failed": "FAILED"}
        self._end(run_id, ends.get(entry.status, "KILLED"), {STATUS: entry.status}, entry.time_ms)

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
            place.runs[key] = run.info.run_id
            self.run_ids = dict(place.runs)
        return place.runs[key]

    def _describe(self, run_id: str, parameters: Mapping[str, object], tags: Mapping[str, str]) -> None:
        """Set a run running, with its tags and the parameters that it lacks."""
        from mlflow.entities import Param, RunTag

        client = self._at().client
        run = client.get_run(run_id)
        lacking = [
            Param(name, str(value)[:LONGEST_TEXT]) for name, value in parameters.items() if name not in run.data.params
        ]
        client.log_batch(run_id, params=lacking, tags=[RunTag(name, value) for name, value in tags.items()])
        if run.info.status != "RUNNING":
            client.update_run(run_id, "RUNNING")

    def _log(self, run_id: str, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """Send metrics; the tags go with the last batch, when all others have arrived."""
        from mlflow.entities import Metric as Row
        from mlflow.entities import RunTag

        rows = [Row(metric.name, metric.value, metric.time_ms, metric.update) for metric in metrics]
        for start in range(0, len(rows), BATCH):
            last = start + BATCH >= len(rows)
            marks = [RunTag(name, value) for name, value in tags.items()] if last else []
            self._at().client.log_batch(run_id, metrics=rows[start : start + BATCH], tags=marks)

    def _best_metrics(self, run_id: str) -> dict[str, float]:
        client = self._at().client
        values = {name: [row.value for row in client.get_metric_history(run_id, name)] for name in BEST}
        return {f"best/{name}": BEST[name](held) for name, held in values.items() if held}

    def _end(self, run_id: str, status: str, tags: Mapping[str, str], time_ms: int) -> None:
        from mlflow.entities import RunTag

        client = self._at().client
        client.log_batch(run_id, tags=[RunTag(name, value[:LONGEST_TEXT]) for name, value in tags.items()])
        client.set_terminated(run_id, status, time_ms)


def refused(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never grant it; every other error may pass."""
    return getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"
