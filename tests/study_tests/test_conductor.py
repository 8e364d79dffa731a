"""The conductor: what is told and asked, and when, does not depend on workers, timing, crashes or resumptions."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from study.conductor import Conductor, Departed, StackReport, stack_key
from study.errors import LonglagError
from study.execution.searcher import MAX_RESTARTS, Ends, StackSearcher
from study.execution.trainable import REPORT, STACK
from study.outcome import Metric, Outcome, Status, TrialKey
from study.plan import Choices, Interval, ModelPlan, SearchPlan, StackPlan, StudyPlan, TaskPlan, TrainingPlan
from study.record import TrialRecord
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study.seeds import derive
from study.tracking.entry import model_answers

TRAINING = TrainingPlan(
    n_updates=10,
    batch_size=5,
    shortest=6,
    longest=10,
    batches="shared",
    report_every=5,
    evaluate_every=10,
    rungs=(),
    keep=0.5,
    ladder=(6, 10),
    n_interim=250,
    n_final=1000,
)


def model(name: str) -> ModelPlan:
    space = {
        "init": "identity",
        "init_scale": Interval(low=0.5, high=2.0),
        "input_scale": 1.0,
        "forget_bias": 1.0,
        "optimiser": "sgd",
        "learning_rate": Interval(low=1e-3, high=1.0, log=True),
        "momentum": 0.9,
        "square_decay": 0.99,
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "clip_fallback": "none",
        "bptt_steps": float("inf"),
        "dropout": Choices(values=("none", "dropout")),
        "p_drop_input": Interval(low=0.0, high=0.5),
        "p_drop_recurrent": 0.0,
        "p_drop_output": 0.0,
        "dropout_masks": "step",
        "l1_states": 0.0,
        "omega_weight": 0.0,
    }
    return ModelPlan(name=name, cell="elman_tanh", n_hidden=3, space=space)


def study_plan(n_trials: int = 10, stack_size: int = 4, look_back: int = 2) -> StudyPlan:
    return StudyPlan(
        name="s",
        seed=5,
        task=TaskPlan(name="temporal_order"),
        training=TRAINING,
        search=SearchPlan(sampler="tpe", n_trials=n_trials, stack_size=stack_size, look_back=look_back, n_startup=3),
        models=(model("a"), model("b")),
        device="cpu",
    )


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

    def close_trial(self, key: TrialKey, outcome: Outcome, weights: Path | None) -> None:
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
    assert one.progress[stack.model].n_settled == len(stack.members)
    assert one.progress[stack.model].n_running == 0
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
    assert one.progress[stack.model].n_running == 0
    assert one.next_stack() is stack
    one.put_back(stack)
    play(one, 1, 0)
    assert one.outcomes() == steady.outcomes()
    assert all(progress.n_running == 0 for progress in one.progress.values())


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
        searcher.lose(f"trial-{attempt}", n_deaths)
    assert {outcome.status for outcome in one.outcomes().values()} == {Status.FAILED}
    assert {key.number for key in one.outcomes()} == {member.number for member in taken["stack"].members}
    assert searcher.error is None


def one_model_plan() -> StudyPlan:
    """A model whose rounds are one stack each."""
    only = model("a")
    return replace(study_plan(n_trials=16), models=(replace(only, space={**only.space, "dropout": "none"}),))


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


def test_the_next_round_is_asked_between_two_events_while_workers_train(tmp_path: Path) -> None:
    plan, stop = one_model_plan(), threading.Event()
    one = conductor(tmp_path, plan, Log())
    searcher = StackSearcher(one, str(tmp_path), stop)
    ends = Ends(searcher)
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

    def fail(search: ModelSearch) -> None:
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
