"""A stack in a worker: what it tells of members that leave, of exceptions, and of a machine that fails it."""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from ray.tune.result import DONE, SHOULD_CHECKPOINT
from safetensors.torch import load_file

from study.execution import trainable
from study.execution.trainable import REPORT, SPOOL, STACK, TROUBLE, StackTrainable
from study.outcome import Status
from study.plan import Hyperparameters, Member, StackPlan, TaskPlan
from study_tests.plan_book import STACK as PLAN
from study_tests.plan_book import TRAINING


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would change how all later tests compute.
    monkeypatch.setattr(trainable, "prepare_process", lambda: None)


def plan() -> StackPlan:
    training = replace(TRAINING, n_updates=5, report_every=5, evaluate_every=5, rungs=())
    members = tuple(Member(number=k, hyperparameters=Hyperparameters(), seed=k) for k in range(3))
    return replace(PLAN, training=training, members=members)


def worker(spool: Path, stack: StackPlan) -> StackTrainable:
    """Tune makes the object of a worker and sets it up; here nothing but the latter is needed."""
    made: StackTrainable = object.__new__(StackTrainable)
    made.setup({STACK: stack, SPOOL: str(spool)})
    return made


def test_members_that_leave_have_their_weights_in_the_spool(tmp_path: Path) -> None:
    result = worker(tmp_path, plan()).step()
    assert result[DONE]
    departed = {one.number: one for one in result[REPORT].departed}
    assert {number: one.outcome.status for number, one in departed.items()} == dict.fromkeys(range(3), Status.COMPLETE)
    assert sorted(tmp_path.iterdir()) == sorted(one.weights for one in departed.values())
    assert set(load_file(departed[1].weights)) == {"input", "recurrent", "bias", "readout", "readout_bias"}


def test_an_exception_in_training_becomes_the_outcome_of_all_members(tmp_path: Path) -> None:
    result = worker(tmp_path, replace(plan(), cell="none such")).step()
    assert result[DONE]
    assert {one.number: one.outcome.status for one in result[REPORT].departed} == dict.fromkeys(range(3), Status.FAILED)
    assert "KeyError: 'none such'" in result[REPORT].departed[0].outcome.reason


def test_a_full_disk_fails_no_member_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count(1)

    def full(file: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = worker(tmp_path, plan()).step()
    assert result[DONE]
    assert result[REPORT] is None
    assert result[TROUBLE].sentence.endswith("cannot go on: [Errno 28] No space left on device")
    assert "in _drop" in result[TROUBLE].traceback


def test_a_machine_without_threads_to_spare_fails_no_member_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)
    result = worker(tmp_path, plan()).step()
    assert result[REPORT] is None
    assert result[TROUBLE].sentence.endswith("cannot go on: weights cannot be written: can't start new thread")


def test_data_that_a_workers_machine_lacks_fails_no_member(tmp_path: Path) -> None:
    task = TaskPlan(name="text", parameters={"path": str(tmp_path / "gone.txt")})
    result = worker(tmp_path, replace(plan(), task=task)).step()
    assert result[REPORT] is None
    assert "text must be in a file that can be read" in result[TROUBLE].sentence


def test_a_worker_goes_on_from_what_another_has_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainable, "CHECKPOINT_S", 0.0)
    stack = replace(plan(), training=replace(plan().training, n_updates=10))
    first = worker(tmp_path, stack)
    first.save_checkpoint(str(tmp_path))
    assert not (tmp_path / "stack.pt").exists()
    result = first.step()
    assert (result[DONE], result[SHOULD_CHECKPOINT]) == (False, True)
    first.save_checkpoint(str(tmp_path))
    second = worker(tmp_path, stack)
    second.load_checkpoint(str(tmp_path))
    reports = [one.step()[REPORT] for one in (first, second)]
    # The other half of the budget, and no more.
    assert [report.n_member_updates for report in reports] == [15, 15]
    found, again = ({one.number: load_file(one.weights) for one in report.departed} for report in reports)
    assert found.keys() == again.keys() == {0, 1, 2}
    assert all(bool((again[k][name] == found[k][name]).all()) for k in found for name in found[k])


def test_a_worker_without_a_checkpoint_begins_anew(tmp_path: Path) -> None:
    one = worker(tmp_path, plan())
    one.load_checkpoint(str(tmp_path))
    assert one.step()[REPORT].n_member_updates == 15
