"""MLflow's database, told of dozens of trials at once.

MLflow's client writes one run at a time, asks a question before each of its writes, and makes an object of each value:
of a trial that is told as a whole, thirty milliseconds of a core. The same rows by the dozen are three.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.tracking.run import Batch, RunPlace
from study.tracking.server import TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient, entities

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """A run with all that it holds but its files."""

    place: RunPlace
    name: str
    start_ms: int
    batch: Batch


class Rows:
    """Writes whole runs to MLflow's tables, and leaves there what MLflow's client would leave.

    The tables, and some more names that are used here, are inner ones of MLflow 3.17, which refuses a database of
    another version.
    """

    def __init__(self, store: Any, experiment_id: str) -> None:
        """Rows of an experiment; ``store`` is MLflow's own of a database."""
        self._store, self._experiment_id = store, experiment_id

    def places(self, names: Iterable[str]) -> dict[str, RunPlace]:
        """Where runs of these trials will be: always the same place, so that another try writes over what one has left.

        A trial is left out whose run was deleted, or is its no more by its tags.

        Raises:
            MlflowException: one of them has a run by now, the experiment is deleted, or the database fails.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
        from mlflow.utils.uri import append_to_uri_path

        experiment = self._store.get_experiment(self._experiment_id)
        if experiment.lifecycle_stage != "active":
            raise MlflowException(f"experiment {experiment.name!r} is deleted")
        # Other databases count their experiments from one as well, and their files may lie in the same place.
        seed = f"{self._experiment_id}/{experiment.creation_time}"
        run_ids = {uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}/{name}").hex: name for name in names}
        with self._store.ManagedSessionMaker() as session:
            found = session.query(SqlRun.run_uuid, SqlRun.lifecycle_stage).filter(SqlRun.run_uuid.in_([*run_ids]))
            taken: dict[str, str] = dict(found)
            tagged = session.query(SqlTag.run_uuid).filter(SqlTag.run_uuid.in_([*taken]), SqlTag.key == TRIAL)
            if late := [run_ids[run_id] for (run_id,) in tagged if taken[run_id] == "active"]:
                # An answer was lost, or somebody else writes too: whoever looks again finds it.
                raise MlflowException(f"{late[0]} has got a run meanwhile")
        root, inner = experiment.artifact_location, self._store.ARTIFACTS_FOLDER_NAME
        return {
            name: RunPlace(run_id=run_id, artifact_uri=append_to_uri_path(root, run_id, inner))
            for run_id, name in run_ids.items()
            if run_id not in taken
        }

    def write(self, runs: Iterable[NewRun]) -> None:
        """Write runs, all of them or none.

        Raises:
            MlflowException: MLflow's client would refuse one of the batches, or the database fails.
        """
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
        from mlflow.utils.validation import _validate_batch_log_data

        # In the order in which they refer to each other.
        tables: dict[Any, list[Row]] = {SqlRun: [], SqlTag: [], SqlParam: [], SqlMetric: [], SqlLatestMetric: []}
        for run in runs:
            metrics, parameters, tags = _validate_batch_log_data(*run.batch.entities())
            run_is: Row = {"run_uuid": run.place.run_id}
            values = [run_is | value for value in self._values(metrics)]
            tables[SqlRun].append(run_is | self._run(run))
            tables[SqlTag] += (run_is | {"key": one.key, "value": one.value} for one in tags)
            tables[SqlTag].append(run_is | {"key": "mlflow.runName", "value": run.name})
            tables[SqlParam] += (run_is | {"key": one.key, "value": one.value} for one in parameters)
            tables[SqlMetric] += values
            tables[SqlLatestMetric] += _latest(values)
        with self._store.ManagedSessionMaker(read_only=False) as session:
            for table, rows in tables.items():
                if rows:
                    session.execute(table.__table__.insert(), rows)

    def _run(self, run: NewRun) -> Row:
        end = run.batch.end
        return {
            "name": run.name,
            "artifact_uri": run.place.artifact_uri,
            "experiment_id": int(self._experiment_id),
            "status": "RUNNING" if end is None else end.status,
            "start_time": run.start_ms,
            "end_time": None if end is None else end.time_ms,
            "lifecycle_stage": "active",
            "user_id": "unknown",
            "source_type": "UNKNOWN",
            **dict.fromkeys(("source_name", "entry_point_name", "source_version"), ""),
        }

    def _values(self, metrics: Iterable[entities.Metric]) -> list[Row]:
        """Rows of the metrics, equal ones once."""
        stored = dict.fromkeys(
            (metric.key, metric.step, metric.timestamp, *self._store.sanitize_metric_value(metric.value))
            for metric in metrics
        )
        return [dict(zip(("key", "step", "timestamp", "is_nan", "value"), row, strict=True)) for row in stored]


def rows_of(client: MlflowClient, experiment_id: str) -> Rows | None:
    """The rows of an experiment, if the client writes to a database itself instead of asking a server to."""
    store = client._tracking_client.store
    return Rows(store, experiment_id) if hasattr(store, "ManagedSessionMaker") else None


def _latest(values: Sequence[Row]) -> list[Row]:
    """Of each metric the last value: by step, then by time, then the largest."""
    latest: dict[object, Row] = {}
    order = ("step", "timestamp", "value")
    for value in sorted(values, key=lambda value: [value[name] for name in order]):
        latest[value["key"]] = value
    return list(latest.values())
