"""A small study for tests of who plays it: its plan, its tracker, and workers that answer at once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from study.conductor import Conductor, Departed, StackReport, stack_key
from study.outcome import Ending, Metric, Outcome, Status, TrialKey
from study.plan import StackPlan, StudyPlan, TaskPlan
from study.record import TrialRecord
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study.seeds import derive
from study_tests.plan_book import MODEL, SEARCH, SPACE, TRAINING


def study_plan(n_trials: int = 10, stack_size: int = 4, look_back: int = 2) -> StudyPlan:
    return StudyPlan(
        name="s",
        seed=5,
        task=TaskPlan(name="temporal_order"),
        training=TRAINING,
        search=replace(SEARCH, n_trials=n_trials, stack_size=stack_size, look_back=look_back, n_startup=3),
        models=(replace(MODEL, name="a"), replace(MODEL, name="b")),
        device="cpu",
    )


def one_model_plan() -> StudyPlan:
    """A model whose rounds are one stack each."""
    only = replace(MODEL, name="a", space={**SPACE, "dropout": "none"})
    return replace(study_plan(n_trials=16), models=(only,))


@dataclass
class Log:
    """A tracker that remembers."""

    opened: list[TrialKey] = field(default_factory=list)
    updates: dict[TrialKey, list[int]] = field(default_factory=dict)
    closed: dict[TrialKey, Outcome] = field(default_factory=dict)
    interrupted: list[TrialKey] = field(default_factory=list)

    def open_trial(self, record: TrialRecord) -> None:
        self.opened.append(record.key)

    def log_metrics(self, key: TrialKey, metrics: Sequence[Metric]) -> None:
        self.updates.setdefault(key, []).append(metrics[0].update)

    def close_trials(self, ended: Sequence[Ending]) -> None:
        for key, outcome, _ in ended:
            assert key not in self.closed
            self.closed[key] = outcome

    def interrupt_trial(self, key: TrialKey) -> None:
        self.interrupted.append(key)


def conductor(folder: Path, plan: StudyPlan, log: Log) -> Conductor:
    storage = open_storage(f"sqlite:///{folder / 'search.db'}")
    searches = {one.name: ModelSearch(storage, plan.name, plan.seed, plan.search, one) for one in plan.models}
    return Conductor(plan, searches, log)


def records(folder: Path, plan: StudyPlan) -> list[TrialRecord]:
    storage = open_storage(f"sqlite:///{folder / 'search.db'}")
    return [
        record
        for one in plan.models
        for record in ModelSearch(storage, plan.name, plan.seed, plan.search, one).records()
    ]


def result(stack: StackPlan, number: int) -> Outcome:
    """A stand-in for training that depends on the whole stack, as halving does."""
    member = next(one for one in stack.members if one.number == number)
    value = derive(0, *map(str, stack_key(stack)), number) % 100
    rate = member.hyperparameters.learning_rate
    return Outcome(
        status=Status.PRUNED if value % 3 == 0 else Status.COMPLETE,
        dependency_length=value + int(10 * rate),
        skill=0.5,
        diverged=value % 7 == 0,
        n_updates=10,
        error_flow=(0.5, value / 100),
        metrics={"loss": value / 100},
    )


def reports(stack: StackPlan, first: int = 0) -> Iterator[StackReport]:
    """Two reports: half of the members leave with each."""
    half = len(stack.members) // 2
    for part, members in list(enumerate((stack.members[:half], stack.members[half:])))[first:]:
        update = 5 * (part + 1)
        yield StackReport(
            seconds={"training": 2.0},
            n_updates=update,
            n_member_updates=5 * len(stack.members),
            metrics={
                one.number: [Metric(name="loss", value=1.0, update=update, time_ms=update)] for one in stack.members
            },
            departed=[Departed(number=one.number, outcome=result(stack, one.number), weights=None) for one in members],
        )


def play(one: Conductor, n_workers: int, seed: int, *, patience: int | None = None) -> None:
    """Workers take stacks and deliver reports in a random order, until the study is done or patience ends."""
    chance = random.Random(seed)
    busy: list[tuple[StackPlan, Iterator[StackReport]]] = []
    while not one.done:
        if not busy or chance.random() < 0.5:
            one.catch_up()
        while len(busy) < n_workers and (stack := one.next_stack()) is not None:
            busy.append((stack, reports(stack)))
        assert busy, "the study is neither done nor has anything to train"
        stack, source = chance.choice(busy)
        report = next(source, None)
        if report is None:
            busy.remove((stack, source))
            continue
        one.report(stack, report)
        if patience is not None:
            patience -= 1
            if patience == 0:
                return


def described(found: list[TrialRecord]) -> list[tuple[object, ...]]:
    return [(one.key, one.parameters, one.seed, one.status, one.outcome) for one in found]
