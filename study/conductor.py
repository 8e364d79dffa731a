"""The order of a study: which stack is trained next, and when which outcome is told. Knows no vendor."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from study.course import Course, Search
from study.hyperparameter import hyperparameters
from study.outcome import Ending, Metric, Outcome, TrialKey, failed_outcome
from study.plan import Member, ModelPlan, StackPlan, StudyPlan
from study.record import TrialRecord


class Tracker(Protocol):
    """Where curves, figures and weights of trials go; no call waits for a server or fails because of one."""

    def open_trial(self, record: TrialRecord) -> None:
        """A trial has been asked, or taken up again."""

    def log_metrics(self, key: TrialKey, metrics: Sequence[Metric]) -> None:
        """Values of one report."""

    def close_trials(self, ended: Sequence[Ending]) -> None:
        """Trials have ended; the files of their weights are the tracker's from now on."""

    def interrupt_trial(self, key: TrialKey) -> None:
        """A trial is left for a later resumption."""


@dataclass(frozen=True, kw_only=True)
class Departed:
    """A trial that has ended: its number, its outcome, and the file that its weights lie in."""

    number: int
    outcome: Outcome
    weights: Path | None


@dataclass(frozen=True, kw_only=True)
class StackReport:
    """What a worker tells of a stack: updates and seconds since the last report, metrics by number, who has left."""

    n_member_updates: int
    n_updates: int
    seconds: Mapping[str, float]
    metrics: Mapping[int, Sequence[Metric]]
    departed: Sequence[Departed]


class Conductor:
    """Plays a study: asks each model's trials in rounds, hands them out as stacks, tells them in order.

    Round n of a model is asked as soon as its round n - look_back is told, and round n is told when all its trials
    have ended and the rounds before are told. Hence every ask sees the same trials with the same states whatever the
    number of workers, their timing, crashes and resumptions. Stacks that wait are handed out first: no worker waits
    for an ask that it does not need.
    """

    def __init__(self, plan: StudyPlan, searches: Mapping[str, Search], tracker: Tracker) -> None:
        """Take up a study where its records say it is; a new one asks its first rounds."""
        self._plan, self._tracker = plan, tracker
        self._stacks: deque[StackPlan] = deque()
        self.courses: dict[str, Course] = {}
        self.seconds: Counter[str] = Counter()
        for model in plan.models:
            records = searches[model.name].records()
            known = {record.key.number: replace(record, outcome=None) for record in records}
            course = Course(plan=model, search=searches[model.name], n_asked=len(known), records=known)
            self.courses[model.name] = course
            for record in records:
                if record.outcome is not None:
                    course.keep(record.key.number, record.outcome)
        for course in self.courses.values():
            self._take_up(course)
        self._stacks = deque(_interleaved(self._stacks))
        self.catch_up()

    @property
    def done(self) -> bool:
        """Whether every trial of every model is told."""
        return all(course.n_told == self._n_rounds for course in self.courses.values())

    @property
    def has_stack(self) -> bool:
        """Whether there is a stack to train now."""
        return bool(self._stacks)

    def outcomes(self) -> dict[TrialKey, Outcome]:
        """Outcomes of all trials that have ended; outlines of all but the best of each model."""
        return {
            self._key(model, number): outcome
            for model, course in self.courses.items()
            for number, outcome in course.outcomes.items()
        }

    def next_stack(self) -> StackPlan | None:
        """The next stack to train; None if there is none now, see ``catch_up``."""
        if not self._stacks:
            return None
        stack = self._stacks.popleft()
        self.courses[stack.model].n_running += self._n_open(stack)
        return stack

    def report(self, stack: StackPlan, report: StackReport) -> None:
        """Take in what a stack did; whatever was known already, because a worker began again, is left out."""
        course = self.courses[stack.model]
        course.n_member_updates += report.n_member_updates
        self.seconds.update(report.seconds)
        for number, metrics in report.metrics.items():
            if number in course.outcomes or report.n_updates <= course.logged.get(number, 0):
                continue
            course.logged[number] = report.n_updates
            self._tracker.log_metrics(self._key(stack.model, number), metrics)
        self._settle(course, report.departed)
        self.catch_up()

    def put_back(self, stack: StackPlan) -> None:
        """A stack was lost on its way: it is the next one again."""
        self.courses[stack.model].n_running -= self._n_open(stack)
        self._stacks.appendleft(stack)

    def fail(self, stack: StackPlan, reason: str) -> None:
        """Give up a stack: whoever had not left it has failed."""
        course, outcome = self.courses[stack.model], failed_outcome(reason)
        left = [member.number for member in stack.members if member.number not in course.outcomes]
        self._settle(course, [Departed(number=number, outcome=outcome, weights=None) for number in left])
        self.catch_up()

    def catch_up(self) -> None:
        """Tell and ask what is due until there is a stack to hand out, of the model that is behind the others first."""
        for course in sorted(self.courses.values(), key=lambda one: one.n_told):
            while not self._stacks and self._tell(course):
                pass

    def interrupt(self) -> None:
        """Leave the study so that it can be taken up again: no trial stays without an owner."""
        for course in self.courses.values():
            course.search.release()
            for number, record in course.records.items():
                # A run that is closed stays so; whether the storage has the outcome as well may be unknown.
                if number not in course.outcomes and number not in course.closed:
                    self._tracker.interrupt_trial(record.key)

    @property
    def _n_rounds(self) -> int:
        return -(-self._plan.search.n_trials // self._plan.search.stack_size)

    def _round(self, index: int) -> range:
        size = self._plan.search.stack_size
        return range(index * size, min((index + 1) * size, self._plan.search.n_trials))

    def _take_up(self, course: Course) -> None:
        """Find out from the records how far a course is, ask what is due, and line up what has to be trained."""
        settled = {number for number, record in course.records.items() if record.status.settled}
        while course.n_told < self._n_rounds and settled.issuperset(self._round(course.n_told)):
            self._pass(course)
        for index in range(course.n_told, min(course.n_told + self._plan.search.look_back, self._n_rounds)):
            self._ask(course, index)

    def _ask(self, course: Course, index: int) -> None:
        """Ask what a round lacks, and line up its stacks."""
        n_lacking = self._round(index).stop - course.n_asked
        if n_lacking > 0:
            course.records.update((record.key.number, record) for record in course.search.ask(n_lacking))
            course.n_asked += n_lacking
        records = [course.records[number] for number in self._round(index)]
        for record in records:
            if record.key.number not in course.outcomes:
                self._tracker.open_trial(record)
        for stack in self._grouped(course.plan, records):
            if any(member.number not in course.outcomes for member in stack.members):
                self._stacks.append(stack)

    def _grouped(self, model: ModelPlan, records: Sequence[TrialRecord]) -> list[StackPlan]:
        """The stacks of a round, members of one signature together; ended trials stay in, for halving is among all."""
        groups: dict[str, list[Member]] = {}
        for record in records:
            chosen = hyperparameters(record.parameters)
            member = Member(number=record.key.number, hyperparameters=chosen, seed=record.seed)
            groups.setdefault(chosen.dropout, []).append(member)
        return [
            StackPlan(
                study=self._plan.name,
                model=model.name,
                cell=model.cell,
                n_hidden=model.n_hidden,
                task=self._plan.task,
                training=self._plan.training,
                seed=self._plan.seed,
                device=self._plan.device,
                members=tuple(members),
            )
            for _, members in sorted(groups.items())
        ]

    def _settle(self, course: Course, departed: Sequence[Departed]) -> None:
        """Keep how these trials have ended, unless it is known."""
        fresh = [one for one in departed if one.number not in course.outcomes]
        for one in departed:
            if one.number in course.outcomes and one.weights is not None:
                one.weights.unlink(missing_ok=True)
        if not fresh:
            return
        # In this order: a crash in between trains the trials again, where the other would leave their runs open.
        self._tracker.close_trials(
            [(self._key(course.plan.name, one.number), one.outcome, one.weights) for one in fresh]
        )
        course.closed.update(one.number for one in fresh)
        course.search.save({one.number: one.outcome for one in fresh})
        for one in fresh:
            course.keep(one.number, one.outcome)
            course.n_running -= 1

    def _tell(self, course: Course) -> bool:
        """Tell the round whose turn has come, and ask the round that it lets through; whether there was one."""
        numbers = self._round(course.n_told)
        if course.n_told == self._n_rounds or not all(number in course.outcomes for number in numbers):
            return False
        course.search.tell(numbers)
        due = course.n_told + self._plan.search.look_back
        self._pass(course)
        if due < self._n_rounds:
            self._ask(course, due)
        return True

    def _pass(self, course: Course) -> None:
        """A round is told."""
        for number in self._round(course.n_told):
            course.forget(number)
        course.n_told += 1

    def _n_open(self, stack: StackPlan) -> int:
        outcomes = self.courses[stack.model].outcomes
        return sum(member.number not in outcomes for member in stack.members)

    def _key(self, model: str, number: int) -> TrialKey:
        return TrialKey(study=self._plan.name, model=model, number=number)


def stack_key(stack: StackPlan) -> tuple[str, tuple[int, ...]]:
    """What tells a stack from all others of its study."""
    return stack.model, tuple(member.number for member in stack.members)


def _interleaved(stacks: Sequence[StackPlan]) -> list[StackPlan]:
    """The stacks of all models in turn, so that no model waits for another's first round."""
    by_model: dict[str, deque[StackPlan]] = {}
    for stack in stacks:
        by_model.setdefault(stack.model, deque()).append(stack)
    order: list[StackPlan] = []
    while any(by_model.values()):
        order += [queue.popleft() for queue in by_model.values() if queue]
    return order
