"""MLflow's database, told of dozens of runs at once.

MLflow's client writes one run at a time, asks a question before each of its writes, and makes an object of each value:
of a trial that is told as a whole, thirty milliseconds of a core. The same rows by the dozen are two.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.tracking.run import Batch, RunPlace

if TYPE_CHECKING:
    from mlflow import MlflowClient, entities

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run has when it begins."""

    name: str
    time_ms: int
    tags: Mapping[str, str]


class Rows:
    """Writes runs that are new to MLflow's tables, and leaves there what MLflow's client would leave.

    The tables and the maker of sessions are names of MLflow 3.17, which refuses a database of another version.
    """

    def __init__(self, store: Any, experiment_id: str) -> None:
        """Rows of an experiment; ``store`` is MLflow's own of a database."""
        self._store, self._experiment_id = store, experiment_id

    def begin(self, beginnings: Sequence[Beginning]) -> list[RunPlace]:
        """Begin runs, all of them or none.

        Raises:
            MlflowException: the experiment is deleted, or the database fails.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
        from mlflow.utils.uri import append_to_uri_path

        experiment = self._store.get_experiment(self._experiment_id)
        if experiment.lifecycle_stage != "active":
            raise MlflowException(f"experiment {experiment.name!r} is deleted")
        runs = []
        rows: dict[type, list[Row]] = {SqlRun: [], SqlTag: []}
        for beginning in beginnings:
            run_id = uuid.uuid4().hex
            address = append_to_uri_path(experiment.artifact_location, run_id, self._store.ARTIFACTS_FOLDER_NAME)
            runs.append(RunPlace(run_id=run_id, artifact_uri=address))
            rows[SqlRun].append(
                {
                    "run_uuid": run_id,
                    "name": beginning.name,
                    "artifact_uri": address,
                    "experiment_id": int(self._experiment_id),
                    "start_time": beginning.time_ms,
                    "status": "RUNNING",
                    "lifecycle_stage": "active",
                    "user_id": "unknown",
                    "source_type": "UNKNOWN",
                    **dict.fromkeys(("source_name", "entry_point_name", "source_version"), ""),
                }
            )
            tags = {**beginning.tags, "mlflow.runName": beginning.name}
            rows[SqlTag] += ({"run_uuid": run_id, "key": name, "value": value} for name, value in tags.items())
        with self._store.ManagedSessionMaker(read_only=False) as session:
            _insert(session, rows)
        return runs

    def fill(self, batches: Mapping[RunPlace, Batch]) -> None:
        """Write all but the files to runs that have nothing but their beginning, to all of them or to none.

        Raises:
            MlflowException: MLflow's client would refuse one of the batches, or the database fails.
        """
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
        from mlflow.utils.validation import _validate_batch_log_data

        rows: dict[type, list[Row]] = {SqlMetric: [], SqlLatestMetric: [], SqlParam: []}
        given: dict[tuple[str, str], Row] = {}
        ends: list[Row] = []
        for run, batch in batches.items():
            metrics, parameters, tags = _validate_batch_log_data(*batch.entities())
            run_is = {"run_uuid": run.run_id}
            values = [run_is | value for value in self._values(metrics)]
            rows[SqlMetric] += values
            rows[SqlLatestMetric] += _latest(values)
            rows[SqlParam] += (run_is | {"key": one.key, "value": one.value} for one in parameters)
            given |= {(run.run_id, one.key): run_is | {"key": one.key, "value": one.value} for one in tags}
            if batch.end is not None:
                ends.append(run_is | {"status": batch.end.status, "end_time": batch.end.time_ms})
        with self._store.ManagedSessionMaker(read_only=False) as session:
            run_ids = [run.run_id for run in batches]
            begun_with = session.query(SqlTag.run_uuid, SqlTag.key).filter(SqlTag.run_uuid.in_(run_ids))
            old = {(run_id, name) for run_id, name in begun_with}
            rows[SqlTag] = [row for tag, row in given.items() if tag not in old]
            session.bulk_update_mappings(SqlTag, [row for tag, row in given.items() if tag in old])
            _insert(session, rows)
            session.bulk_update_mappings(SqlRun, ends)

    def _values(self, metrics: Sequence[entities.Metric]) -> list[Row]:
        """Rows of the metrics, equal ones once."""
        values = dict.fromkeys((metric.key, metric.step, metric.timestamp, metric.value) for metric in metrics)
        rows = []
        for name, step, time_ms, value in values:
            is_nan, stored = self._store.sanitize_metric_value(value)
            rows.append({"key": name, "step": step, "timestamp": time_ms, "value": stored, "is_nan": is_nan})
        return rows


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


def _insert(session: Any, rows: Mapping[Any, Sequence[Row]]) -> None:
    for model, some in rows.items():
        if some:
            session.execute(model.__table__.insert(), some)
