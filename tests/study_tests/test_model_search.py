"""The search of a model: asks that do not depend on crashes, outcomes that stay, on every storage."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from study.outcome import Outcome, Status, TrialKey, failed_outcome
from study.plan import Choices, Domain, Interval
from study.record import TrialRecord
from study.search import lessons, model_search
from study.search import storage as storage_module
from study.search.catalogue import Catalogue
from study.search.lessons import MAX_LEARNED, N_GOOD
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study_tests.plan_book import MODEL, POINT, SEARCH, SPACE


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'search.db'}"
    server: str = request.getfixturevalue("postgres_url")
    return server


def search(url: str, study: str, sampler: str = "tpe", space: Mapping[str, Domain] = SPACE) -> ModelSearch:
    plan = replace(SEARCH, sampler=sampler)  # type: ignore[arg-type]
    return ModelSearch(open_storage(url), study, 7, plan, replace(MODEL, space=space))


def outcome(record: TrialRecord) -> Outcome:
    """A stand-in for training: a smooth function of the parameters; every third trial is pruned."""
    rate = float(record.parameters["learning_rate"])
    return Outcome(
        status=Status.PRUNED if record.key.number % 3 == 2 else Status.COMPLETE,
        dependency_length=int(100 * rate**0.1),
        skill=0.25,
        diverged=False,
        n_updates=100 if record.key.number % 3 == 2 else 1000,
    )


def settle(one: ModelSearch, records: list[TrialRecord]) -> None:
    one.save({record.key.number: outcome(record) for record in records})
    one.tell(record.key.number for record in records)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    label: str = request.node.name
    return label.replace("[", "-").replace("]", "")


@pytest.mark.parametrize(("max_learned", "n_good"), [(MAX_LEARNED, N_GOOD), (8, 3)])
def test_ask_is_the_same_when_the_search_is_opened_anew_at_every_step(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch, max_learned: int, n_good: int
) -> None:
    monkeypatch.setattr(lessons, "MAX_LEARNED", max_learned)
    monkeypatch.setattr(lessons, "N_GOOD", n_good)
    steady = search(url, f"{name}-steady")
    for _ in range(4):
        settle(steady, steady.ask(4))
    for _ in range(4):
        records = [search(url, f"{name}-broken").ask(1)[0] for _ in range(4)]
        for record in records:
            search(url, f"{name}-broken").save({record.key.number: outcome(record)})
        for record in records:
            search(url, f"{name}-broken").tell([record.key.number])
    found, expected = search(url, f"{name}-broken").records(), steady.records()
    assert [record.parameters for record in found] == [record.parameters for record in expected]
    assert [record.seed for record in found] == [record.seed for record in expected]
    assert [record.outcome for record in found] == [record.outcome for record in expected]


def test_ask_never_leaves_a_trial_without_its_parameters(url: str, name: str) -> None:
    one = search(url, name)
    record = one.ask(1)[0]
    stored = optuna.load_study(storage=url, study_name=f"{name}/m").trials[record.key.number]
    assert stored.state is TrialState.RUNNING
    assert stored.user_attrs["longlag:parameters"] == record.parameters
    assert stored.params.items() <= record.parameters.items()


def test_ask_draws_only_what_applies(url: str, name: str) -> None:
    one = search(url, name)
    records = one.ask(16)
    for record in records:
        chosen = record.parameters
        assert ("momentum" in chosen) == (chosen["optimiser"] in {"nesterov", "adam"})
        assert ("square_decay" in chosen) == (chosen["optimiser"] == "adam")
        assert ("p_drop_input" in chosen) == (chosen["dropout"] == "dropout")
        assert chosen["clip_norm"] == float("inf")
    assert {record.parameters["optimiser"] for record in records} == {"sgd", "nesterov", "adam"}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_ask_draws_whole_numbers_of_steps(url: str, name: str, sampler: str) -> None:
    one = search(url, name, sampler, {**SPACE, "bptt_steps": Interval(low=2, high=40, log=True)})
    for _ in range(3):
        settle(one, one.ask(4))
    steps = [record.parameters["bptt_steps"] for record in one.records()]
    assert all(isinstance(drawn, int) and 2 <= drawn <= 40 for drawn in steps)
    assert len(set(steps)) > 4


def test_ask_searches_all_kinds_of_dropout_in_one_space(url: str, name: str) -> None:
    rates = dict.fromkeys(("p_drop_input", "p_drop_recurrent", "p_drop_output"), Interval(low=0.0, high=0.5))
    space = {
        **SPACE,
        **rates,
        "dropout": Choices(values=("none", "dropout", "fast")),
        "dropout_masks": Choices(values=("step", "sequence")),
        "fast_readout": Choices(values=("mean", "moments")),
    }
    one = search(url, name, "random", space)
    asked = [one.ask(1)[0].parameters for _ in range(40)]
    for chosen in asked:
        drops = chosen["dropout"] != "none"
        assert all((rate in chosen) == drops for rate in rates)
        assert ("dropout_masks" in chosen) == (chosen["dropout"] == "dropout")
        assert ("fast_readout" in chosen) == (chosen["dropout"] == "fast")
    kinds = {(chosen["dropout"], chosen.get("dropout_masks"), chosen.get("fast_readout")) for chosen in asked}
    assert len(kinds) == 5


def test_ask_gives_distinct_points_also_past_the_start_up_and_in_batches(url: str, name: str) -> None:
    one = search(url, name)
    for _ in range(3):
        settle(one, one.ask(8))
    points = [tuple(sorted(record.parameters.items())) for record in one.records()]
    assert len(set(points)) == len(points) == 24


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_ask_exhausts_a_finite_space_before_it_repeats(url: str, name: str, sampler: str) -> None:
    rates = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    one = search(url, name, sampler, {**POINT, "learning_rate": Choices(values=rates)})
    for _ in range(2):
        settle(one, one.ask(3))
    assert sorted(float(record.parameters["learning_rate"]) for record in one.records()) == list(rates)
    settle(one, one.ask(1))
    assert len(one.records()) == 7


def test_ask_walks_a_grid_in_order_and_repeats_it_with_other_seeds(url: str, name: str) -> None:
    choices = {"learning_rate": Choices(values=(0.1, 0.2)), "init": Choices(values=("identity", "sparse"))}
    one = search(url, name, "grid", {**POINT, **choices})
    records = one.ask(8)
    walked = [(record.parameters["init"], record.parameters["learning_rate"]) for record in records]
    assert walked == [("identity", 0.1), ("identity", 0.2), ("sparse", 0.1), ("sparse", 0.2)] * 2
    assert len({record.seed for record in records}) == 8


def test_tell_settles_every_kind_of_outcome_and_is_idempotent(url: str, name: str) -> None:
    one = search(url, name)
    done, pruned, failed = (record.key.number for record in one.ask(3))
    good = Outcome(status=Status.COMPLETE, dependency_length=40, skill=0.5, diverged=True, n_updates=10)
    poor = Outcome(status=Status.PRUNED, dependency_length=8, skill=0.25, diverged=False, n_updates=5)
    for number, ended in ((done, good), (pruned, poor), (failed, failed_outcome("Traceback ..."))):
        one.save({number: ended})
        one.tell([number])
        search(url, name).tell([number])
    trials = optuna.load_study(storage=url, study_name=f"{name}/m").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].value == 40.5
    assert trials[1].intermediate_values == {5: 8.25}
    records = one.records()
    assert [record.status for record in records] == [Status.COMPLETE, Status.PRUNED, Status.FAILED]
    assert records[0].outcome == good
    assert records[2].outcome is not None
    assert records[2].outcome.reason == "Traceback ..."


def test_release_leaves_nothing_running_and_the_next_owner_adopts(url: str, name: str) -> None:
    one = search(url, name)
    first, second = one.ask(2)
    one.save({first.key.number: outcome(first)})
    one.release()
    assert [record.status for record in one.records()] == [Status.WAITING, Status.WAITING]
    again = search(url, name)
    assert [record.status for record in again.records()] == [Status.RUNNING, Status.RUNNING]
    assert again.records()[0].outcome == outcome(first)
    assert again.ask(1)[0].key.number == second.key.number + 1


def test_attached_runs_are_read_back_and_kept(url: str, name: str) -> None:
    one = search(url, name)
    first, second = (record.key for record in one.ask(2))
    catalogue = Catalogue(open_storage(url))
    catalogue.attach_runs({first: "abc123", TrialKey(study=name, model="a model of another storage", number=0): "x"})
    catalogue.attach_runs({second: "def456"})
    assert [record.run_id for record in search(url, name).records()] == ["abc123", "def456"]


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_ask_writes_trials_once_when_an_answer_is_lost(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    one = search(url, name)
    one.ask(1)
    real, transaction, lost = model_search.enter, model_search.one_transaction, [True]

    def lose() -> None:
        if lost:
            lost.clear()
            raise OperationalError("INSERT", {}, Exception("the answer was lost"))

    def losing(*passed: Any) -> list[int]:
        if when == "before":
            lose()
        ids = real(*passed)
        if when == "between":
            lose()
        return ids

    @contextmanager
    def answering(storage: RDBStorage) -> Iterator[None]:
        with transaction(storage):
            yield
        if when == "after":
            lose()

    monkeypatch.setattr(model_search, "enter", losing)
    monkeypatch.setattr(model_search, "one_transaction", answering)
    monkeypatch.setattr(storage_module.time, "sleep", lambda seconds: None)
    records = one.ask(2)
    assert not lost
    one.save({record.key.number: outcome(record) for record in records})
    stored = search(url, name).records()
    assert [record.key.number for record in stored] == [0, 1, 2]
    assert [record.outcome for record in stored] == [None, *map(outcome, records)]


def test_a_round_is_asked_saved_and_told_with_a_commit_each(url: str, name: str) -> None:
    one, commits = search(url, name), []
    event.listen(one._storage.engine, "commit", commits.append)
    records = one.ask(5)
    assert len(commits) == 1
    one.save({record.key.number: outcome(record) for record in records})
    assert len(commits) == 2
    one.tell(record.key.number for record in records)
    assert len(commits) == 3
    assert [record.status for record in search(url, name).records()] == [outcome(record).status for record in records]


def test_trials_that_have_ended_are_not_held_in_memory(url: str, name: str) -> None:
    one, before = search(url, name), _frozen_trials()
    for _ in range(40):
        record = one.ask(1)[0]
        one.save({record.key.number: outcome(record)})
        one.tell([record.key.number])
    # At most the last one asked.
    assert _frozen_trials() - before <= 1
    assert not one._ids
    assert not one._untold
    assert len(one.records()) == 40


def _frozen_trials() -> int:
    gc.collect()
    return sum(type(one) is optuna.trial.FrozenTrial for one in gc.get_objects())
