"""MLflow's database, told of dozens of trials at once.

MLflow's client writes to one run at a time, asks questions before each of its writes, and makes an object of each
value: of a trial that is told as a whole, thirty milliseconds of a core. The same rows by the dozen are three.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.tracking.run import RUNNING, Batch, RunPlace
from study.tracking.server import TRIAL

if TYPE_CHECKING:
    from mlflow import MlflowClient, entities

Row = dict[str, Any]
Tables = dict[Any, list[Row]]
Identity = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run is called, and when it began."""

    name: str
    start_ms: int


@dataclass(frozen=True, kw_only=True)
class Told:
    """What MLflow is told of a run: what is new of it, or where it lacks the run all that it holds but its files."""

    place: RunPlace
    batch: Batch
    beginning: Beginning | None = None


class Rows:
    """Writes to MLflow's tables, and leaves there what MLflow's client would leave.

    The tables, and some more names that are used here, are inner ones of MLflow 3.17, which refuses a database of
    another version.
    """

    def __init__(self, store: Any, experiment_id: str) -> None:
        """Rows of an experiment; ``store`` is MLflow's own of a database."""
        self._store, self._experiment_id = store, experiment_id

    def places(self, names: Collection[str]) -> dict[str, RunPlace]:
        """Where runs of these trials will be: always the same place, so that another try writes over what one has left.

        A trial is left out whose run was deleted, or is its no more by its tags.

        Raises:
            MlflowException: one of them has a run by now, the experiment is deleted, or the database fails.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
        from mlflow.utils.uri import append_to_uri_path

        if not names:
            return {}
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

    def write(self, runs: Iterable[Told]) -> None:
        """Write what runs are told, all of it or nothing; a parameter that a run has stays as it is.

        Some hundreds of them at most: SQLite takes no question of a thousand parts.

        Raises:
            MlflowException: MLflow's client would refuse one of the batches otherwise, a run that is not new is deleted
                or gone, or the database fails.
        """
        from mlflow.store.tracking.dbmodels.models import SqlRun

        every = list(runs)
        new, known = [run for run in every if run.beginning], [run for run in every if not run.beginning]
        of_new, of_known = self._tables(new), self._tables(known)
        with self._store.ManagedSessionMaker(read_only=False) as session:
            _insert(session, SqlRun, [self._run(run, run.beginning) for run in new if run.beginning])
            for table, rows in of_new.items():
                _insert(session, table, rows)
            if known:
                self._check([run.place.run_id for run in known], session)
                _add(session, of_known)
                _update(session, SqlRun, [_moved(run) for run in known if run.batch.standing])

    def _tables(self, runs: Iterable[Told]) -> Tables:
        """The rows of the batches."""
        from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlTag
        from mlflow.utils.validation import _validate_batch_log_data

        tables: Tables = {SqlTag: [], SqlParam: [], SqlMetric: [], SqlLatestMetric: []}
        for run in runs:
            metrics, parameters, tags = _validate_batch_log_data(*run.batch.entities())
            run_is: Row = {"run_uuid": run.place.run_id}
            values = [run_is | value for value in self._values(metrics)]
            tables[SqlTag] += (run_is | {"key": one.key, "value": one.value} for one in tags)
            if run.beginning:
                tables[SqlTag].append(run_is | {"key": "mlflow.runName", "value": run.beginning.name})
            tables[SqlParam] += (run_is | {"key": one.key, "value": one.value} for one in parameters)
            tables[SqlMetric] += values
            tables[SqlLatestMetric] += _latest(values)
        return tables

    def _run(self, run: Told, beginning: Beginning) -> Row:
        standing = run.batch.standing or RUNNING
        return {
            "run_uuid": run.place.run_id,
            "name": beginning.name,
            "artifact_uri": run.place.artifact_uri,
            "experiment_id": int(self._experiment_id),
            "status": standing.status,
            "start_time": beginning.start_ms,
            "end_time": standing.end_ms,
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

    def _check(self, run_ids: Sequence[str], session: Any) -> None:
        """Raise what MLflow's client raises where one of the runs cannot be written to."""
        from mlflow.store.tracking.dbmodels.models import SqlRun

        active = session.query(SqlRun.run_uuid).filter(SqlRun.run_uuid.in_(run_ids), SqlRun.lifecycle_stage == "active")
        for run_id in set(run_ids).difference(run_id for (run_id,) in active):
            self._store._check_run_is_active(self._store._get_run(session, run_id))


def rows_of(client: MlflowClient, experiment_id: str) -> Rows | None:
    """The rows of an experiment, if the client writes to a database itself instead of asking a server to."""
    store = client._tracking_client.store
    return Rows(store, experiment_id) if hasattr(store, "ManagedSessionMaker") else None


def _add(session: Any, tables: Tables) -> None:
    """Add rows to runs that may have some of them already: tags and last values give way, all else stays."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlTag

    gives_way: dict[Any, Callable[[Row, Mapping[str, Any]], bool]] = {
        SqlTag: lambda row, old: True,
        SqlLatestMetric: lambda row, old: _order(row) > _order(old),
    }
    for table, rows in tables.items():
        if not rows:
            continue
        asked = _since(table, rows) if table is SqlMetric else table.run_uuid.in_({row["run_uuid"] for row in rows})
        found = session.query(*table.__table__.columns).filter(asked).with_for_update()
        there = {_identity(table, old): old for old in (one._mapping for one in found)}
        pairs = [(row, there.get(_identity(table, row))) for row in rows]
        _insert(session, table, [row for row, old in pairs if old is None])
        if table in gives_way:
            _update(session, table, [row for row, old in pairs if old is not None and gives_way[table](row, old)])


def _since(table: Any, rows: Sequence[Row]) -> Any:
    """What each run has reported from the first step of these rows on; before that may be much."""
    from sqlalchemy import and_, or_

    first: dict[str, int] = {}
    for row in rows:
        first[row["run_uuid"]] = min(row["step"], first.get(row["run_uuid"], row["step"]))
    return or_(*(and_(table.run_uuid == run_id, table.step >= step) for run_id, step in first.items()))


def _identity(table: Any, row: Mapping[str, Any]) -> Identity:
    return tuple(row[column.name] for column in table.__table__.primary_key)


def _insert(session: Any, table: Any, rows: list[Row]) -> None:
    if rows:
        session.execute(table.__table__.insert(), rows)


def _update(session: Any, table: Any, rows: list[Row]) -> None:
    from sqlalchemy import update

    if rows:
        session.execute(update(table), rows)


def _moved(run: Told) -> Row:
    standing = run.batch.standing
    assert standing is not None
    ended = {} if standing.end_ms is None else {"end_time": standing.end_ms}
    return {"run_uuid": run.place.run_id, "status": standing.status, **ended}


def _latest(values: Sequence[Row]) -> list[Row]:
    """Of each metric the last value."""
    return list({value["key"]: value for value in sorted(values, key=_order)}.values())


def _order(value: Mapping[str, Any]) -> tuple[float, float, float]:
    """Of two values of a metric the later one is the last, and of equally late ones the larger."""
    return value["step"], value["timestamp"], value["value"]
