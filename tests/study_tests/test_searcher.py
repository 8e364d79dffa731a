"""What Tune's workers are given to do."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.train import Checkpoint
from ray.train._internal.session import _TrainingResult
from ray.tune.experiment import Trial
from ray.tune.result import DONE

from study.errors import LonglagError
from study.execution.searcher import MAX_RESTARTS, Events, StackSearcher, Stops
from study.execution.trainable import REPORT, STACK, TROUBLE, Trouble
from study.outcome import Status
from study.search.model_search import ModelSearch
from study_tests.conductor_book import Log, conductor, one_model_plan, records, reports, study_plan


@pytest.mark.parametrize(("n_deaths", "n_times_back"), [(1, MAX_RESTARTS), (2, MAX_RESTARTS), (MAX_RESTARTS + 1, 0)])
def test_a_stack_that_tune_gives_up_fails_only_when_its_worker_died_too_often(
    tmp_path: Path, n_deaths: int, n_times_back: int
) -> None:
    one = conductor(tmp_path, study_plan(), Log())
    searcher = StackSearcher(one, str(tmp_path), threading.Event())
    for attempt in range(n_times_back + 1):
        taken = searcher.suggest(f"trial-{attempt}")
        assert isinstance(taken, dict)
        assert one.outcomes() == {}
        searcher.on_trial_complete(f"trial-{attempt}", error=True)
        searcher.lose(f"trial-{attempt}", n_deaths, RuntimeError("the worker was killed\nand more"))
    assert {outcome.status for outcome in one.outcomes().values()} == {Status.FAILED}
    assert all(outcome.reason.endswith("restarted, of: the worker was killed") for outcome in one.outcomes().values())
    assert {key.number for key in one.outcomes()} == {member.number for member in taken["stack"].members}
    assert searcher.error is None


def test_trouble_of_a_workers_machine_stops_the_study_and_fails_no_trial(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, study_plan(), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    searcher.suggest("first")
    trouble = Trouble(sentence="the disk is full", traceback="Traceback: ...")
    searcher.on_trial_result("first", {REPORT: None, TROUBLE: trouble, DONE: True})
    assert stop.is_set()
    assert isinstance(searcher.error, LonglagError)
    assert str(searcher.error) == "the disk is full"
    assert searcher.error.__notes__ == ["Traceback: ..."]
    searcher.on_trial_complete("first", {REPORT: None, TROUBLE: trouble, DONE: True})
    assert one.outcomes() == {}


def test_a_checkpoint_for_which_there_is_no_room_stops_the_study_and_fails_no_trial(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, study_plan(), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    searcher.suggest("first")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # As Tune writes it down.
    written = tmp_path / "error.pkl"
    written.write_bytes(cloudpickle.dumps(RayTaskError("save", "Traceback", full)))
    given_up = SimpleNamespace(trial_id="first", num_failures=MAX_RESTARTS + 1, pickled_error_file=str(written))
    Events(searcher).on_trial_error(0, [], given_up)  # type: ignore[arg-type]
    assert stop.is_set()
    assert str(searcher.error) == "a worker cannot go on: [Errno 28] No space left on device"
    assert one.outcomes() == {}


@pytest.mark.parametrize("content", [None, b"", b"half a pickle"])
def test_a_death_of_which_nothing_could_be_written_down_is_one_all_the_same(
    tmp_path: Path, content: bytes | None
) -> None:
    one = conductor(tmp_path, study_plan(), Log())
    searcher = StackSearcher(one, str(tmp_path), threading.Event())
    searcher.suggest("first")
    written = tmp_path / "error.pkl"
    if content is not None:
        written.write_bytes(content)
    given_up = SimpleNamespace(trial_id="first", num_failures=MAX_RESTARTS + 1, pickled_error_file=str(written))
    Events(searcher).on_trial_error(0, [], given_up)  # type: ignore[arg-type]
    assert searcher.error is None
    assert {outcome.status for outcome in one.outcomes().values()} == {Status.FAILED}


def test_the_next_round_is_asked_between_two_events_while_workers_train(tmp_path: Path) -> None:
    plan, stop = one_model_plan(), threading.Event()
    one = conductor(tmp_path, plan, Log())
    searcher = StackSearcher(one, str(tmp_path), stop)
    ends = Events(searcher)
    taken = searcher.suggest("first")
    assert isinstance(taken, dict)
    for report in reports(taken[STACK]):
        searcher.on_trial_result("first", {REPORT: report})
    ends.on_step_end(0, [])
    assert len(records(tmp_path, plan)) == 8
    searcher.suggest("second")
    assert len(records(tmp_path, plan)) == 8
    ends.on_step_end(1, [])
    assert len(records(tmp_path, plan)) == 12
    assert searcher.error is None


def test_a_worker_for_which_no_stack_waits_is_given_one_if_it_can_be_asked(tmp_path: Path) -> None:
    one = conductor(tmp_path, one_model_plan(), Log())
    searcher = StackSearcher(one, str(tmp_path), threading.Event())
    taken = searcher.suggest("first")
    assert isinstance(taken, dict)
    for report in reports(taken[STACK]):
        searcher.on_trial_result("first", {REPORT: report})
    numbers = []
    for trial_id in ("second", "third"):
        taken = searcher.suggest(trial_id)
        assert isinstance(taken, dict)
        numbers.append([member.number for member in taken[STACK].members])
    assert numbers == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_an_error_while_the_next_round_is_asked_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    one = conductor(tmp_path, one_model_plan(), Log())
    searcher = StackSearcher(one, str(tmp_path), stop)
    gone = LonglagError("the storage is gone")

    def fail(search: ModelSearch, n_trials: int) -> None:
        raise gone

    monkeypatch.setattr(ModelSearch, "ask", fail)
    for trial_id in ("first", "second"):
        taken = searcher.suggest(trial_id)
        assert isinstance(taken, dict)
        for report in reports(taken[STACK]):
            searcher.on_trial_result(trial_id, {REPORT: report})
    assert searcher.error is gone
    assert stop.is_set()
    assert searcher.suggest("third") == StackSearcher.FINISHED


def test_a_worker_without_a_stack_waits_and_is_kept_until_there_is_one(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, study_plan(n_trials=8, stack_size=4, look_back=1), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    stops = Stops(searcher, stop)

    def given(trial_id: str) -> object:
        config = searcher.suggest(trial_id)
        assert not isinstance(config, str)
        return config and config[STACK]

    def end(trial_id: str) -> None:
        for report in reports(running[trial_id]):
            searcher.on_trial_result(trial_id, {REPORT: report})
            assert not stops(trial_id, {REPORT: report})
        searcher.on_trial_complete(trial_id)

    running = {}
    while (stack := given(f"trial-{len(running)}")) is not None:
        running[f"trial-{len(running)}"] = stack
        searcher.start(f"trial-{len(running) - 1}")
    first, *others = running
    end(first)
    # The rest of its round is still trained.
    assert (given("waiting"), one.has_stack) == (None, False)
    assert searcher.suggest("none is idle") is None
    assert not stops("waiting", {REPORT: None})
    # One that has lost its worker may need this one's place.
    searcher.restart(others[0])
    assert stops("waiting", {REPORT: None})
    searcher.start(others[0])
    assert not stops("waiting", {REPORT: None})
    for trial_id in others:
        end(trial_id)
    assert one.has_stack
    assert stops("waiting", {REPORT: None})
    searcher.on_trial_complete("waiting")
    assert given("next") is not None


def test_a_worker_waits_no_longer_than_the_study_and_its_death_loses_nothing(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, one_model_plan(), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    running = {}

    def take(trial_id: str) -> None:
        config = searcher.suggest(trial_id)
        assert isinstance(config, dict)
        running[trial_id] = config[STACK]
        searcher.start(trial_id)

    def end(trial_id: str) -> None:
        for report in reports(running[trial_id]):
            searcher.on_trial_result(trial_id, {REPORT: report})
        searcher.on_trial_complete(trial_id)

    take("first")
    take("second")
    end("second")
    for dying in ("idle", "idle again"):
        take(dying)
        assert running[dying] is None
        searcher.lose(dying, 1, None)
    assert len(one.outcomes()) == 4
    end("first")
    take("third")
    take("last")
    end("third")
    take("idle to the end")
    assert not searcher.awaited("idle to the end")
    end("last")
    assert one.done
    assert searcher.awaited("idle to the end")
    assert searcher.suggest("none") == StackSearcher.FINISHED


def test_a_worker_waits_no_longer_than_the_study_is_to_run(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, one_model_plan(), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    for trial_id in ("first", "second"):
        taken = searcher.suggest(trial_id)
        searcher.start(trial_id)
    assert isinstance(taken, dict)
    for report in reports(taken[STACK]):
        searcher.on_trial_result("second", {REPORT: report})
    searcher.on_trial_complete("second")
    assert isinstance(searcher.suggest("idle"), dict)
    assert not searcher.awaited("idle")
    stop.set()
    assert searcher.awaited("idle")


def test_what_tune_keeps_of_a_stack_that_has_ended_does_not_depend_on_what_was_in_it(tmp_path: Path) -> None:
    one = conductor(tmp_path, one_model_plan(), Log())
    events = Events(StackSearcher(one, str(tmp_path), threading.Event()))
    kept = []
    for content in ("", 10_000 * "x"):
        trial = Trial("stack", stub=True, trial_id="one", experiment_tag=content, evaluated_params={STACK: content})
        trial.config = {STACK: content}
        checkpoint = Checkpoint.from_directory(str(tmp_path))
        saved = _TrainingResult(checkpoint=checkpoint, metrics={REPORT: content, "config": trial.config})
        trial.run_metadata.checkpoint_manager.register_checkpoint(saved)
        trial.update_last_result({REPORT: content, DONE: True, "config": trial.config, "n": len(content)})
        events.on_trial_complete(0, [trial], trial)
        trial.run_metadata.last_result_time = 0.0
        kept.append(sum(len(text) for text in trial.get_json_state()))
    # A random name and times are in these texts, of a few characters more or fewer; what was in the stack has 10,000.
    assert abs(kept[0] - kept[1]) < 100
