"""Where a study lies in MLflow: an experiment, a parent run, and under it a run for each trial."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from study.errors import LonglagError
from study.outcome import Status, TrialKey
from study.settings import sqlite_file
from study.tracking import server
from study.tracking.database import ARTIFACTS, follow_move, local_folder
from study.tracking.rows import Beginning, Told, rows_of
from study.tracking.run import Batch, RunPlace
from study.tracking.server import MODEL, STUDY, TRIAL, WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROLE, STATUS, LOGGED = "longlag.role", "longlag.status", "longlag.logged_updates"
"""Tags: ``study`` on the parent run; where the trial is; up to which update its metrics are in MLflow."""

TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Tag by which MLflow's UI shows an experiment as runs with metrics instead of as traces of a language model."""


class Place:
    """The experiment and the runs of one study; runs are found again by their tags, never created twice.

    ``runs`` are the trials', whose metrics are there up to the update ``logged``. ``best`` holds the best values of the
    trials whose runs began here and have not ended; what others reported, MLflow knows.
    """

    def __init__(self, client: MlflowClient, uri: str, study: str) -> None:
        """Look everything up, and create the experiment if it is missing.

        Raises:
            LonglagError: the experiment is deleted.
            Exception: whatever MLflow raises.
        """
        self.client, self._uri, self._study = client, uri, study
        if (file := sqlite_file(uri)) is not None:
            follow_move(file)
        self._experiment_id = self._find_experiment()
        self._rows = rows_of(client, self._experiment_id)
        found = server.runs_of(client, self._experiment_id)
        keyed = [(key, run) for run in reversed(found) if (key := server.trial_key(run)) is not None]
        self._parents = [_run_place(run) for run in found if run.data.tags.get(ROLE) == "study"]
        self.runs = {key: _run_place(run) for key, run in keyed}
        self.logged = {key: int(run.data.tags.get(LOGGED, "-1")) for key, run in keyed}
        self.best: dict[TrialKey, dict[str, float]] = {}

    def parent(self, time_ms: int) -> RunPlace:
        """The run of the study, which begins now if there is none."""
        if not self._parents:
            tags = {STUDY: self._study, ROLE: "study"}
            self._parents.append(_run_place(self.client.create_run(self._experiment_id, time_ms, tags, self._study)))
        return self._parents[0]

    def run(self, key: TrialKey, time_ms: int, tags: Mapping[str, str]) -> RunPlace:
        """The run of a trial, which begins now, with these tags and those it is found by, if there is none."""
        if key not in self.runs:
            all_tags = {**self._found_by(key, time_ms), **tags}
            self.runs[key] = _run_place(self.client.create_run(self._experiment_id, time_ms, all_tags, _run_name(key)))
            self.best[key] = {}
        return self.runs[key]

    def together(self, times_ms: Mapping[TrialKey, int]) -> dict[TrialKey, Told]:
        """Runs of these trials for ``write``, new ones with the tags that they are found by; none for a server.

        Artifacts may be uploaded to all of them at once; MLflow knows nothing of a new one before it is written.

        Args:
            times_ms: when each trial began, for those that have no run.
        """
        if self._rows is None:
            return {}
        found = {key: Told(place=self.runs[key], batch=Batch()) for key in times_ms if key in self.runs}
        names = {str(key): key for key in times_ms if key not in self.runs}
        for name, place in self._rows.places(names).items():
            key = names[name]
            tags = self._found_by(key, times_ms[key])
            beginning = Beginning(name=_run_name(key), start_ms=times_ms[key])
            found[key] = Told(place=place, batch=Batch(tags=tags), beginning=beginning)
            self.best[key] = {}
        return found

    def write(self, runs: Mapping[TrialKey, Told]) -> None:
        """Write what the batches of runs that ``together`` has given hold by now; all of it or nothing."""
        assert self._rows is not None
        self._rows.write(runs.values())
        self.runs |= {key: run.place for key, run in runs.items()}

    def end(self, key: TrialKey) -> None:
        """A trial is over, and its metrics are in MLflow, which tells the best of them should there be more."""
        self.best.pop(key, None)

    def upload(self, run: RunPlace, files: Mapping[str, bytes]) -> None:
        """Put files among the artifacts of a run, where MLflow's client puts them too.

        The client asks for the run first and copies a folder, which takes a multiple of the time.
        """
        folder = local_folder(self._uri, run.artifact_uri)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, files)
            if WEIGHTS in files:
                # Their other copy is deleted now; all else can be made again.
                with (folder / WEIGHTS).open("rb") as file:
                    os.fsync(file.fileno())
            return
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        uri = add_databricks_profile_info_to_artifact_uri(run.artifact_uri, self._uri)
        with tempfile.TemporaryDirectory() as copied:
            _write(Path(copied), files)
            get_artifact_repository(uri, tracking_uri=self._uri).log_artifacts(copied)

    def _found_by(self, key: TrialKey, time_ms: int) -> dict[str, str]:
        return {
            "mlflow.parentRunId": self.parent(time_ms).run_id,
            STUDY: key.study,
            MODEL: key.model,
            TRIAL: str(key),
            STATUS: str(Status.RUNNING),
        }

    def _find_experiment(self) -> str:
        experiment = self.client.get_experiment_by_name(self._study)
        if experiment is None:
            return self.client.create_experiment(self._study, self._artifact_location(), TRAINING)
        if experiment.lifecycle_stage != "active":
            raise LonglagError(
                f"experiment {self._study!r} must not be deleted in MLflow while it is recorded, but it is: "
                "restore it there"
            )
        return experiment.experiment_id

    def _artifact_location(self) -> str | None:
        """Beside an SQLite database, whose client would else put artifacts where the process happens to run."""
        file = sqlite_file(self._uri)
        return None if file is None else (file.parent / ARTIFACTS / self._study).as_uri()


def _run_name(key: TrialKey) -> str:
    return f"{key.model}/{key.number}"


def _run_place(run: Run) -> RunPlace:
    return RunPlace(run_id=run.info.run_id, artifact_uri=run.info.artifact_uri)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
