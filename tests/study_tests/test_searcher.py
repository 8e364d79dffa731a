"""What Tune's workers are given to do."""

from __future__ import annotations

import threading
from pathlib import Path

from study.execution.searcher import StackSearcher, Stops
from study.execution.trainable import REPORT, STACK
from study_tests.test_conductor import Log, conductor, reports, study_plan


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
    first, *others = running
    end(first)
    # The rest of its round is still trained.
    assert (given("waiting"), one.has_stack) == (None, False)
    assert searcher.suggest("none is idle") is None
    assert not stops("waiting", {REPORT: None})
    for trial_id in others:
        end(trial_id)
    assert one.has_stack
    assert stops("waiting", {REPORT: None})
    searcher.on_trial_complete("waiting")
    assert given("next") is not None


def test_a_worker_that_waits_ends_with_the_study(tmp_path: Path) -> None:
    one, stop = conductor(tmp_path, study_plan(n_trials=8, stack_size=4, look_back=1), Log()), threading.Event()
    searcher = StackSearcher(one, str(tmp_path), stop)
    taken = searcher.suggest("trial")
    while one.next_stack() is not None:
        pass
    assert isinstance(taken, dict)
    for report in reports(taken[STACK]):
        searcher.on_trial_result("trial", {REPORT: report})
    searcher.on_trial_complete("trial")
    waits = searcher.suggest("waiting")
    assert isinstance(waits, dict)
    assert waits[STACK] is None
    # Its death loses nothing.
    searcher.lose("waiting", 1)
    assert isinstance(searcher.suggest("waiting again"), dict)
    assert not searcher.awaited("waiting again")
    stop.set()
    assert searcher.awaited("waiting again")
