"""Trials that are written together: what is there is what Optuna itself would have left, in every table."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import MetaData, create_engine, event, select, text

from study.search.rows import enter, keep, settle
from study.search.storage import one_transaction, open_storage
from study.search.verdict import Verdict

SPACES: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(1e-4, 0.1, log=True),
    "momentum": FloatDistribution(0.0, 0.9, step=0.1),
    "n_layers": IntDistribution(1, 64, log=True),
    "optimiser": CategoricalDistribution(["sgd", "adam", None, True, 1.5]),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def storages(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[RDBStorage, RDBStorage]:
    """Two empty databases of a kind, each with two studies."""
    if request.param == "sqlite":
        urls = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "other")]
    else:
        url: str = request.getfixturevalue("postgres_url")
        names = [f"{request.node.name.partition('[')[0][:40]}_{name}" for name in ("one", "other")]
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as database:
            for name in names:
                database.execute(text(f"CREATE DATABASE {name}"))
        urls = [url.replace("/postgres?", f"/{name}?") for name in names]
    one, other = map(open_storage, urls)
    for storage in (one, other):
        for name in ("first", "second"):
            optuna.create_study(storage=storage, study_name=name)
    return one, other


def _asked(n_trials: int) -> list[FrozenTrial]:
    """Trials with parameters of every kind, as a sampler leaves them before they are measured."""
    return [
        create_trial(
            state=TrialState.RUNNING,
            params={
                "learning_rate": 1e-4 * (n + 1),
                "momentum": 0.1 * (n % 9),
                "n_layers": n + 1,
                "optimiser": (None, True, 1.5)[n % 3],
            },
            distributions=SPACES,
            user_attrs={"longlag:parameters": {"clip_norm": math.inf, "name": "größe"}, "longlag:seed": 2**62 + n},
            system_attrs={"tpe:relative_params": '{"momentum": 0.5}'} if n % 2 else {},
        )
        for n in range(n_trials)
    ]


def _enter(storage: RDBStorage, study_id: int, trials: list[FrozenTrial]) -> list[int]:
    with one_transaction(storage):
        return enter(storage, study_id, trials, storage.get_n_trials(study_id))


def _tables(storage: RDBStorage) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, with a word instead of a time of this minute."""
    tables = MetaData()
    tables.reflect(storage.engine)
    now = datetime.now(UTC).replace(tzinfo=None)

    def shown(value: object) -> object:
        return "now" if isinstance(value, datetime) and abs(now - value) < timedelta(minutes=1) else value

    with storage.engine.connect() as database:
        return {
            name: sorted((tuple(map(shown, row)) for row in database.execute(select(table))), key=repr)
            for name, table in tables.tables.items()
        }


def _assert_same(ours: RDBStorage, theirs: RDBStorage) -> dict[str, list[tuple[Any, ...]]]:
    found, expected = _tables(ours), _tables(theirs)
    assert found.keys() == expected.keys()
    for table, rows in expected.items():
        assert (table, found[table]) == (table, rows)
    return found


def test_enter_leaves_what_optuna_leaves(storages: tuple[RDBStorage, RDBStorage]) -> None:
    ours, theirs = storages
    asked = _asked(7)
    ids: dict[RDBStorage, list[int]] = {ours: [], theirs: []}
    for study, some in (("first", asked[:3]), ("second", asked[3:4]), ("first", asked[4:]), ("second", [])):
        ids[ours] += _enter(ours, ours.get_study_id_from_name(study), some)
        ids[theirs] += [theirs.create_new_trial(theirs.get_study_id_from_name(study), trial) for trial in some]
    assert ids[ours] == ids[theirs]
    assert len(_assert_same(ours, theirs)["trial_params"]) == 28


def test_keep_leaves_what_optuna_leaves_also_over_what_was_kept(storages: tuple[RDBStorage, RDBStorage]) -> None:
    ours, theirs = storages
    for storage in storages:
        _enter(storage, 1, _asked(5))
    # Optuna's PostgreSQL uses up an id when it replaces a value, so that this comes last.
    for key, values in (("outcome", {1: "a", 2: "größe"}), ("other", {2: 1.5}), ("outcome", {4: None, 2: [2], 1: "a"})):
        with one_transaction(ours):
            keep(ours, key, values)
        for trial_id, value in values.items():
            theirs.set_trial_user_attr(trial_id, key, value)
    assert len(_assert_same(ours, theirs)["trial_user_attributes"]) == 5 * 2 + 4


def test_settle_leaves_what_optuna_leaves_and_ends_no_trial_twice(storages: tuple[RDBStorage, RDBStorage]) -> None:
    ours, theirs = storages
    for storage in storages:
        _enter(storage, 1, _asked(8))
    verdicts = {
        1: Verdict(TrialState.COMPLETE, 80.5),
        2: Verdict(TrialState.PRUNED, 8.25, 500),
        4: Verdict(TrialState.FAIL),
        5: Verdict(TrialState.COMPLETE, math.inf),
        6: Verdict(TrialState.COMPLETE, -math.inf),
        7: Verdict(TrialState.PRUNED, math.nan, 0),
        8: Verdict(TrialState.PRUNED, -math.inf, 3),
    }
    other = Verdict(TrialState.COMPLETE, 1.0)
    for storage in storages:
        # As whoever died between the two has left it.
        storage.set_trial_intermediate_value(8, 3, 1.5)
        storage.set_trial_intermediate_value(8, 2, 2.5)
    for some in ({k: verdicts[k] for k in (1, 2)}, verdicts, dict.fromkeys((1, 2, 4), other), {3: other}):
        with one_transaction(ours):
            settle(ours, some)
    for trial_id, verdict in (verdicts | {3: other}).items():
        if verdict.state is TrialState.PRUNED:
            theirs.set_trial_intermediate_value(trial_id, verdict.step, verdict.value)
        values = [verdict.value] if verdict.state is TrialState.COMPLETE else None
        theirs.set_trial_state_values(trial_id, verdict.state, values)
    assert [len(_assert_same(ours, theirs)[table]) for table in ("trial_values", "trial_intermediate_values")] == [4, 4]


def test_keep_refuses_a_trial_that_has_ended_and_settle_one_that_is_not_there(
    storages: tuple[RDBStorage, RDBStorage],
) -> None:
    storage, _ = storages
    _enter(storage, 1, _asked(3))
    with one_transaction(storage):
        settle(storage, {2: Verdict(TrialState.FAIL)})
    before = _tables(storage)
    with pytest.raises(UpdateFinishedTrialError), one_transaction(storage):
        keep(storage, "outcome", {1: "a", 2: "b"})
    with pytest.raises(KeyError, match="only 1 of them"), one_transaction(storage):
        keep(storage, "outcome", {1: "a", 9: "b"})
    with pytest.raises(KeyError, match="only 1 of them"), one_transaction(storage):
        settle(storage, dict.fromkeys((1, 9), Verdict(TrialState.FAIL)))
    assert _tables(storage) == before


def test_enter_costs_a_statement_for_each_further_trial_whatever_its_parameters(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    study_id = optuna.create_study(storage=storage)._study_id
    statements: list[str] = []
    event.listen(storage.engine, "before_cursor_execute", lambda *passed: statements.append(passed[2]))
    counts = []
    for first, n_trials in ((0, 2), (2, 31)):
        statements.clear()
        with one_transaction(storage):
            enter(storage, study_id, _asked(n_trials), first)
        counts.append(len(statements))
    assert counts[1] - counts[0] <= 29


def test_trials_of_which_one_cannot_be_written_leave_nothing(storages: tuple[RDBStorage, RDBStorage]) -> None:
    storage, _ = storages
    before = _tables(storage)
    bad = _asked(2)
    bad[1].system_attrs["tpe:relative_params"] = object()
    with pytest.raises(TypeError, match="not JSON serializable"):
        _enter(storage, 1, bad)
    assert _tables(storage) == before
    assert _enter(storage, 1, _asked(2)) == [trial._trial_id for trial in storage.get_all_trials(1)]
    assert [trial.number for trial in storage.get_all_trials(1)] == [0, 1]


def test_trials_that_an_earlier_attempt_has_entered_are_not_entered_again(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    study_id = optuna.create_study(storage=storage)._study_id
    counts = []
    for first, n_entered in ((0, 2), (0, 0), (2, 2)):
        with one_transaction(storage):
            counts.append((len(enter(storage, study_id, _asked(2), first)), n_entered))
    assert counts == [(2, 2), (0, 0), (2, 2)]
    assert [trial.number for trial in storage.get_all_trials(study_id)] == [0, 1, 2, 3]


def test_enter_refuses_a_study_that_is_not_there(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    with pytest.raises(KeyError), one_transaction(storage):
        enter(storage, 1, _asked(2), 0)
