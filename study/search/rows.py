"""Many trials at a time in Optuna's tables, each function for the body of ``study.search.storage.one_transaction``.

Optuna's own methods leave the same rows, but take one trial and one fact at a time, and ask before each whether it may
be written and is there already: ten times the work. The tables are private names of Optuna's 5.0.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from study.search.verdict import Verdict


def enter(storage: RDBStorage, study_id: int, trials: Sequence[FrozenTrial], first: int) -> list[int]:
    """Enter trials that have been asked and have measured nothing, in order, as Optuna's ``create_new_trial`` does.

    Where the study has trials with numbers from ``first`` on, an earlier attempt has gone through although its answer
    was lost, and nothing is entered. That earlier trials had like distributions, which Optuna asks, is not asked: the
    space of our studies never changes.

    Returns:
        The ids of what was entered.
    """
    session = storage.scoped_session()
    # The lock also waits for an attempt that is still being committed.
    study = models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
    if models.TrialModel.count(session, study) > first:
        return []
    entered = [
        models.TrialModel(study_id=study_id, number=number, state=trial.state, datetime_start=trial.datetime_start)
        for number, trial in enumerate(trials, start=first)
    ]
    session.add_all(entered)
    session.flush()
    ids: list[int] = [trial.trial_id for trial in entered]  # type: ignore[misc]
    parameters = [
        {
            "trial_id": id_,
            "param_name": name,
            "param_value": distribution.to_internal_repr(trial.params[name]),
            "distribution_json": distribution_to_json(distribution),
        }
        for id_, trial in zip(ids, trials, strict=True)
        for name, distribution in trial.distributions.items()
    ]
    _insert(session, models.TrialParamModel, parameters)
    for model, every in (
        (models.TrialUserAttributeModel, [trial.user_attrs for trial in trials]),
        (models.TrialSystemAttributeModel, [trial.system_attrs for trial in trials]),
    ):
        _insert(session, model, _attributes(zip(ids, every, strict=True)))
    session.commit()
    return ids


def keep(storage: RDBStorage, key: str, values: Mapping[int, Any]) -> None:
    """Keep a value of each of these trials, by id, as Optuna's ``set_trial_user_attr`` does, over an earlier one.

    Raises:
        UpdateFinishedTrialError: one of the trials has ended.
    """
    session = storage.scoped_session()
    if len(_open(session, values)) < len(values):
        raise UpdateFinishedTrialError("a trial must run while something is kept of it, but one has ended")
    rows = _attributes((id_, {key: value}) for id_, value in values.items())
    _put(session, models.TrialUserAttributeModel, rows, "key")
    session.commit()


def settle(storage: RDBStorage, verdicts: Mapping[int, Verdict]) -> None:
    """End these trials, by id, as Optuna's ``set_trial_state_values`` does; but not those that have ended already."""
    session, now = storage.scoped_session(), datetime.now()
    values, steps = [], []
    for trial in _open(session, verdicts):
        verdict, trial_is = verdicts[trial.trial_id], {"trial_id": trial.trial_id}  # type: ignore[index]
        trial.state, trial.datetime_complete = verdict.state, now
        if verdict.state is TrialState.PRUNED:
            value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(verdict.value)
            what = {"step": verdict.step, "intermediate_value": value, "intermediate_value_type": kind}
            steps.append(trial_is | what)
        elif verdict.state is TrialState.COMPLETE:
            value, type_ = models.TrialValueModel.value_to_stored_repr(verdict.value)
            values.append(trial_is | {"objective": 0, "value": value, "value_type": type_})
    _put(session, models.TrialIntermediateValueModel, steps, "step")
    _put(session, models.TrialValueModel, values, "objective")
    session.commit()


def _open(session: Session, ids: Collection[int]) -> list[models.TrialModel]:
    """Those of these trials that have not ended, held until the transaction ends."""
    model = models.TrialModel
    found = session.scalars(
        select(model).where(model.trial_id.in_(ids)).order_by(model.trial_id).with_for_update()
    ).all()
    if len(found) < len(ids):
        raise KeyError(f"the trials {sorted(ids)} must be there, but only {len(found)} of them are")
    return [trial for trial in found if not trial.state.is_finished()]


def _attributes(every: Iterable[tuple[int, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of the attributes of trials with these ids."""
    return [
        {"trial_id": id_, "key": key, "value_json": json.dumps(value)}
        for id_, attributes in every
        for key, value in attributes.items()
    ]


def _insert(session: Session, model: type[models.BaseModel], rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(model), rows)


def _put(session: Session, model: Any, rows: Sequence[dict[str, Any]], name: str) -> None:
    """Insert rows, or write over those of the same trials and the same ``name``."""
    if not rows:
        return
    (id_,) = model.__table__.primary_key
    of_trials = model.trial_id.in_({row["trial_id"] for row in rows})
    found = session.execute(select(id_, model.trial_id, getattr(model, name)).where(of_trials))
    ids = {(trial_id, which): row_id for row_id, trial_id, which in found}
    pairs = [(row, ids.get((row["trial_id"], row[name]))) for row in rows]
    _insert(session, model, [row for row, row_id in pairs if row_id is None])
    if again := [row | {id_.name: row_id} for row, row_id in pairs if row_id is not None]:
        session.execute(update(model), again)
