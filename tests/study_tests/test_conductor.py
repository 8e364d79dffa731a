"""The conductor: what is told and asked, and when, does not depend on workers, timing, crashes or resumptions."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from study.errors import LonglagError
from study.outcome import Outcome, Status, TrialKey
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study.tracking.entry import model_answers
from study_tests.conductor_book import (
    Log,
    conductor,
    described,
    one_model_plan,
    play,
    records,
    reports,
    study_plan,
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    folder, plan = tmp_path_factory.mktemp("steady"), study_plan()
    play(conductor(folder, plan, Log()), 1, 0)
    return described(records(folder, plan))


@pytest.mark.parametrize(("n_workers", "seed"), [(1, 1), (2, 2), (3, 3), (7, 4)])
def test_trials_do_not_depend_on_workers_and_timing(
    tmp_path: Path, expected: list[tuple[object, ...]], n_workers: int, seed: int
) -> None:
    log, plan = Log(), study_plan()
    play(conductor(tmp_path, plan, log), n_workers, seed)
    assert described(records(tmp_path, plan)) == expected
    assert len(log.closed) == 20
    assert log.interrupted == []


@pytest.mark.parametrize("seed", range(4))
def test_trials_do_not_depend_on_crashes(tmp_path: Path, expected: list[tuple[object, ...]], seed: int) -> None:
    plan, chance = study_plan(), random.Random(seed)
    for attempt in range(100):
        one = conductor(tmp_path, plan, Log())
        # A crash: the conductor is dropped in the middle, without a word.
        play(one, 2, seed + attempt, patience=chance.randint(1, 6))
        if one.done:
            break
    assert one.done
    assert described(records(tmp_path, plan)) == expected


def test_a_study_taken_up_after_a_crash_opens_every_trial_that_has_not_ended(tmp_path: Path) -> None:
    # The tracker relies on it: openings are not durable at once.
    log, plan = Log(), study_plan()
    play(conductor(tmp_path, plan, Log()), 2, 0, patience=5)
    conductor(tmp_path, plan, log)
    found = records(tmp_path, plan)
    ended = {record.key for record in found if record.outcome is not None}
    assert ended
    assert set(log.opened) == {record.key for record in found} - ended


def test_trials_do_not_depend_on_interruptions_and_no_trial_stays_running(
    tmp_path: Path, expected: list[tuple[object, ...]]
) -> None:
    plan = study_plan()
    for attempt in range(100):
        log = Log()
        one = conductor(tmp_path, plan, log)
        play(one, 2, attempt, patience=3)
        if one.done:
            break
        one.interrupt()
        storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
        statuses = {
            trial.state.name for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)
        }
        assert "RUNNING" not in statuses
        # Whatever was opened here and has not ended is handed over as interrupted.
        assert set(log.opened) - set(log.closed) <= set(log.interrupted)
    assert described(records(tmp_path, plan)) == expected


@pytest.mark.parametrize("kept", [True, False])
def test_runs_that_are_closed_are_not_interrupted_when_it_is_unknown_whether_outcomes_are_kept(
    tmp_path: Path, expected: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    log, plan, save = Log(), study_plan(), ModelSearch.save

    def lost(search: ModelSearch, outcomes: Mapping[int, Outcome]) -> None:
        if kept:
            save(search, outcomes)
        raise LonglagError("the storage has not answered for 120 s")

    one = conductor(tmp_path, plan, log)
    with monkeypatch.context() as patch:
        patch.setattr(ModelSearch, "save", lost)
        with pytest.raises(LonglagError, match="not answered"):
            play(one, 2, 0)
    one.interrupt()
    assert log.closed
    assert set(log.interrupted) == set(log.opened) - set(log.closed)
    # Whoever goes on trains again what is not known, with runs that are opened again.
    again = Log()
    play(conductor(tmp_path, plan, again), 2, 1)
    assert (set(log.closed) <= set(again.opened)) == (not kept)
    assert described(records(tmp_path, plan)) == expected


def test_outcomes_answer_as_all_reports_do_but_are_whole_only_for_the_best(tmp_path: Path) -> None:
    log, plan = Log(), study_plan()
    one = conductor(tmp_path, plan, log)
    play(one, 3, 5)
    for found in (one.outcomes(), conductor(tmp_path, plan, Log()).outcomes()):
        assert found.keys() == log.closed.keys()
        assert model_answers(found) == model_answers(log.closed)
        assert sum(bool(outcome.metrics or outcome.error_flow) for outcome in found.values()) == len(plan.models)


def test_report_again_after_a_worker_began_again_changes_nothing(tmp_path: Path) -> None:
    log, plan = Log(), study_plan(look_back=1)
    one = conductor(tmp_path, plan, log)
    stack = one.next_stack()
    assert stack is not None
    first, second = reports(stack)
    one.report(stack, first)
    one.report(stack, first)
    one.report(stack, second)
    last = stack.members[-1].number
    assert log.updates[TrialKey(study="s", model=stack.model, number=last)] == [5, 10]
    assert one.courses[stack.model].n_settled == len(stack.members)
    assert one.courses[stack.model].n_running == 0
    assert one.seconds["training"] == 6.0


def test_fail_gives_up_only_who_had_not_left(tmp_path: Path) -> None:
    log, plan = Log(), study_plan()
    one = conductor(tmp_path, plan, log)
    stack = one.next_stack()
    assert stack is not None
    one.report(stack, next(reports(stack)))
    one.fail(stack, "the worker died")
    half = len(stack.members) // 2
    statuses = [log.closed[TrialKey(study="s", model=stack.model, number=m.number)].status for m in stack.members]
    assert all(status is not Status.FAILED for status in statuses[:half])
    assert all(status is Status.FAILED for status in statuses[half:])
    play(one, 2, 0)
    assert one.done


def test_a_stack_that_was_put_back_is_the_next_one_and_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    plan = study_plan()
    for name in ("steady", "lost"):
        (tmp_path / name).mkdir()
    steady = conductor(tmp_path / "steady", plan, Log())
    play(steady, 1, 0)
    one = conductor(tmp_path / "lost", plan, Log())
    stack = one.next_stack()
    assert stack is not None
    one.report(stack, next(reports(stack)))
    one.put_back(stack)
    assert one.courses[stack.model].n_running == 0
    assert one.next_stack() is stack
    one.put_back(stack)
    play(one, 1, 0)
    assert one.outcomes() == steady.outcomes()
    assert all(course.n_running == 0 for course in one.courses.values())


def test_a_stack_that_waits_is_handed_out_before_the_next_round_is_asked(tmp_path: Path) -> None:
    plan = one_model_plan()
    one = conductor(tmp_path, plan, Log())
    first = one.next_stack()
    assert first is not None
    for report in reports(first):
        one.report(first, report)
    second = one.next_stack()
    assert second is not None
    assert [member.number for member in second.members] == [4, 5, 6, 7]
    assert len(records(tmp_path, plan)) == 8
    one.catch_up()
    third = one.next_stack()
    assert third is not None
    assert [member.number for member in third.members] == [8, 9, 10, 11]


def test_catch_up_asks_one_stack_at_a_time_of_the_model_that_is_behind(tmp_path: Path) -> None:
    (only,) = one_model_plan().models
    plan = replace(one_model_plan(), models=(only, replace(only, name="b")))
    one = conductor(tmp_path, plan, Log())
    lined_up = [one.next_stack() for _ in range(4)]
    for stack in lined_up:
        assert stack is not None
        for report in reports(stack):
            one.report(stack, report)
    asked = []
    for _ in range(4):
        one.catch_up()
        stack = one.next_stack()
        assert stack is not None
        assert one.next_stack() is None
        asked.append(stack.model)
    assert asked == ["a", "b", "a", "b"]


def test_stacks_hold_one_dropout_kind_each_and_all_trials_of_a_round(tmp_path: Path) -> None:
    plan = study_plan(n_trials=8, stack_size=8, look_back=1)
    one = conductor(tmp_path, plan, Log())
    stacks = []
    while (stack := one.next_stack()) is not None:
        stacks.append(stack)
    for name in ("a", "b"):
        mine = [stack for stack in stacks if stack.model == name]
        assert sorted(m.number for stack in mine for m in stack.members) == list(range(8))
        kinds = [{m.hyperparameters.dropout for m in stack.members} for stack in mine]
        assert sorted(map(sorted, kinds)) == [["dropout"], ["none"]]


def test_round_waits_for_the_look_back(tmp_path: Path) -> None:
    plan = study_plan(n_trials=12, stack_size=4, look_back=2)
    conductor(tmp_path, plan, Log())
    asked = [record.key.number for record in records(tmp_path, plan) if record.key.model == "a"]
    assert asked == list(range(8))


def test_the_trials_that_a_course_knows_whole_are_those_that_are_not_told(tmp_path: Path) -> None:
    plan = study_plan(n_trials=40)
    one = conductor(tmp_path, plan, Log())
    asked = plan.search.look_back * plan.search.stack_size
    for patience in (12, 24):
        play(one, 2, 3, patience=patience)
        for taken_up in (one, conductor(tmp_path, plan, Log())):
            for course in taken_up.courses.values():
                assert len(course.records) <= asked
                assert course.logged.keys() <= course.records.keys()
    play(one, 2, 4)
    assert all(not course.records and not course.logged for course in one.courses.values())
