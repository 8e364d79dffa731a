"""Contexts: what is measured on real data, with predictors whose memory is known, and a study's way through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from study.errors import UserError
from study.exported import write_export
from study.outcome import Loss, Outcome, Rung, Status, TrialKey
from study.plan import Hyperparameters, Member, StackPlan, TaskPlan
from study.record import TrialRecord
from study.session import Session
from study.settings import read_settings
from study.study_file import parse_spec
from study.tracking.server import WEIGHTS
from study.training.bracket import Bracket
from study.training.context import Contexts
from study.training.measure import yardstick
from study.training.stack import Stack
from study_tests import plan_book
from study_tests.plan_book import STACK
from tasks import Batch, Dataset
from tasks_tests.data_files import write_letters, write_rolls

LAG, N_LETTERS = 4, 3

TRAINING = replace(
    plan_book.TRAINING,
    n_updates=3,
    report_every=2,
    evaluate_every=2,
    rungs=(2,),
    ladder=tuple(range(1, 11)),
    n_interim=100,
)


def plan(task: TaskPlan, n_members: int = 1, **changes: object) -> StackPlan:
    members = tuple(Member(number=k, hyperparameters=Hyperparameters(), seed=k) for k in range(n_members))
    whole = replace(STACK, cell="elman_rectifier", task=task, training=TRAINING, members=members)
    return replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture
def letters(tmp_path: Path) -> TaskPlan:
    return TaskPlan(name="text", parameters={"path": str(write_letters(tmp_path, lag=LAG))})


def contexts(task: TaskPlan) -> Contexts:
    measured = yardstick(plan(task))
    assert isinstance(measured, Contexts)
    return measured


def remembering(lag: int) -> object:
    """Members that know the letters' rule and see the letter ``lag`` steps ago, where the context reaches that far."""

    def infer(members: Sequence[int], batch: Batch) -> Tensor:
        n_steps, n_sequences = batch.inputs.shape
        output = torch.zeros(1, 1, n_sequences, N_LETTERS + 1)
        if n_steps >= lag:
            output[0, 0] = 3.0 * one_hot((batch.inputs[-lag] + 1) % N_LETTERS, N_LETTERS + 1)
        return output

    return infer


def climbed(measured: Contexts, infer: object, purpose: str = "final/3", n: int = 1000) -> tuple[Rung, ...]:
    (rungs,) = measured.measure(infer, 1, purpose=purpose, ladder=TRAINING.ladder, n_sequences=n)  # type: ignore[arg-type]
    return rungs


def means(rungs: Sequence[Rung]) -> list[float]:
    return [rung.loss.mean for rung in rungs if rung.loss is not None]


@pytest.mark.parametrize("lag", [1, 3, LAG, 7])
def test_effective_context_is_the_lag_of_a_perfect_memory(tmp_path: Path, lag: int) -> None:
    path = write_letters(tmp_path, lag=lag)
    measured = contexts(TaskPlan(name="text", parameters={"path": str(path)}))
    rungs = climbed(measured, remembering(lag))
    assert [rung.length for rung in rungs] == list(range(11))
    assert measured.score(rungs).dependency_length == lag
    # Below the lag the four outputs are equal; beyond it nothing is gained but by answers with a longer history.
    assert means(rungs)[1:lag] == pytest.approx([math.log(N_LETTERS + 1)] * (lag - 1))
    assert means(rungs)[lag:] == pytest.approx([means(rungs)[lag]] * (11 - lag))


def test_effective_context_is_the_length_of_a_networks_delay_line(letters: TaskPlan) -> None:
    # A rectifier network whose units hand on the last letters' codes, and whose readout knows the rule.
    n_codes = N_LETTERS + 1
    stack = Stack(plan(letters, n_hidden=LAG * n_codes))
    weights = {name: torch.zeros_like(tensor) for name, tensor in stack.member_weights(0).items()}
    weights["input"][:, :n_codes] = torch.eye(n_codes)
    for unit in range((LAG - 1) * n_codes):
        weights["recurrent"][unit, unit + n_codes] = 1.0
    for code in range(N_LETTERS):
        weights["readout"][(LAG - 1) * n_codes + code, (code + 1) % N_LETTERS] = 3.0
    stack.load_weights([weights])
    (rungs,) = stack.evaluate("final/3", 1000, [0])
    expected = climbed(contexts(letters), remembering(LAG))
    assert stack.yardstick.score(rungs).dependency_length == LAG
    assert means(rungs) == pytest.approx(means(expected), rel=1e-5)
    assert [rung.n_failed for rung in rungs[LAG:]] == [rung.n_failed for rung in expected[LAG:]]


def test_losses_are_those_of_each_answer_asked_by_itself(letters: TaskPlan) -> None:
    stack = Stack(plan(letters, n_members=2))
    data = stack.task
    assert isinstance(data, Dataset)
    n_answers = len(data.histories("valid"))
    whole = data.excerpt("valid", torch.tensor([n_answers - 1]), n_answers)
    text = torch.cat([whole.inputs[:, 0], whole.targets[0]])
    measured = stack.evaluate("final/3", 1000, [0, 1], (1, 3, 8))
    for member, rungs in enumerate(measured):
        weights = {name: tensor[member : member + 1] for name, tensor in stack.weights.items()}
        assert [rung.length for rung in rungs] == [0, 1, 3, 8]
        for rung in rungs[1:]:
            losses, n_wrong = [], 0
            for at in range(1, len(text)):
                seen = text[max(0, at - rung.length) : at, None]
                output = stack.network.infer(weights, seen, keep=None, n_read=1)[0, 0]
                losses.append(float(cross_entropy(output, text[at : at + 1])))
                n_wrong += int(output.argmax()) != int(text[at])
            mean = sum(losses) / len(losses)
            variance = sum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
            assert rung.loss is not None
            assert rung.loss.mean == pytest.approx(mean, rel=1e-5)
            assert rung.loss.standard_error == pytest.approx((variance / len(losses)) ** 0.5, rel=1e-4)
            assert (rung.n_failed, rung.n_sequences) == (n_wrong, n_answers)


def test_context_0_is_the_constant_answer(letters: TaskPlan) -> None:
    measured = contexts(letters)
    counts = torch.tensor([0.0] * (N_LETTERS + 1))
    text = Path(str(letters.parameters["path"])).read_text()
    for letter in text[:3600]:
        counts["abc".index(letter)] += 1
    p = (counts + 1) / (counts + 1).sum()
    held_out = text[3601:3800]
    expected = -sum(math.log(p["abc".index(letter)]) for letter in held_out) / len(held_out)
    assert means(climbed(measured, remembering(LAG)))[0] == pytest.approx(expected, rel=1e-5)


def test_what_is_chosen_by_is_not_what_is_confirmed_on(tmp_path: Path) -> None:
    for split, content in {"train": "abcd" * 9, "valid": "ab" * 30, "test": "cd" * 20}.items():
        (tmp_path / f"{split}.txt").write_text(content)
    measured = contexts(TaskPlan(name="text", parameters={"path": str(tmp_path / "*.txt")}))
    seen: dict[str, set[int]] = {}
    for purpose in ("interim/2", "final/3", "confirmed/3", "again/0"):

        def infer(members: Sequence[int], batch: Batch, purpose: str = purpose) -> Tensor:
            seen.setdefault(purpose, set()).update(batch.inputs.flatten().tolist())
            return torch.zeros(1, 1, batch.inputs.shape[1], 5)

        rungs = climbed(measured, infer, purpose)
        assert {rung.n_sequences for rung in rungs} == {59 if purpose.startswith(("interim", "final")) else 39}
    assert seen == {"interim/2": {0, 1}, "final/3": {0, 1}, "confirmed/3": {2, 3}, "again/0": {2, 3}}


def test_every_context_asks_the_same_answers_and_each_of_them_once(letters: TaskPlan) -> None:
    measured = contexts(letters)
    data = measured.problem
    assert isinstance(data, Dataset)
    text = Path(str(letters.parameters["path"])).read_text()[3600:3800]
    targets: dict[int, list[int]] = {}

    def infer(members: Sequence[int], batch: Batch) -> Tensor:
        targets.setdefault(batch.inputs.shape[0], []).extend(batch.targets[0].tolist())
        return torch.zeros(1, 1, batch.inputs.shape[1], N_LETTERS + 1)

    (rungs,) = measured.measure(infer, 1, purpose="final/3", ladder=(1,), n_sequences=1000)
    assert sorted(targets[1]) == sorted("abc".index(letter) for letter in text[1:])
    assert rungs[1].n_sequences == 199
    by_context = []
    for context in (1, 200):
        targets.clear()
        measured.measure(infer, 1, purpose="final/3", ladder=(context,), n_sequences=50)
        by_context.append(sorted(target for some in targets.values() for target in some))
        assert len(by_context[-1]) == 50
    assert by_context[0] == by_context[1]


@pytest.mark.parametrize(
    ("losses", "context", "skill"),
    [
        ([2.0, 1.5, 1.01, 1.0], 2, 0.5),
        ([2.0, 1.5, 1.011, 1.0], 4, 0.5),
        # The literal smallest, even where more context does harm in between.
        ([2.0, 1.0, 1.5, 1.0], 1, 0.5),
        ([2.0, 1.9, 1.9, 1.99], 0, 0.005),
        ([2.0, 1.0, 3.0, 4.0], 0, 0.0),
        ([2.0, math.inf, math.inf, math.inf], 0, 0.0),
    ],
)
def test_score_is_the_smallest_context_that_is_enough_and_the_share_of_the_loss_saved(
    letters: TaskPlan, losses: list[float], context: int, skill: float
) -> None:
    rungs = [
        Rung(length=at, lag=at, n_failed=0, n_sequences=9, loss=Loss(mean=loss, standard_error=0.1))
        for at, loss in zip((0, 1, 2, 4), losses, strict=True)
    ]
    score = contexts(letters).score(rungs)
    assert score.dependency_length == context
    assert score.skill == pytest.approx(skill)
    assert not score.complete


def test_a_loss_that_is_no_number_is_infinite(letters: TaskPlan) -> None:
    def broken(members: Sequence[int], batch: Batch) -> Tensor:
        return torch.full((1, 1, batch.inputs.shape[1], N_LETTERS + 1), math.nan)

    rungs = climbed(contexts(letters), broken)
    assert means(rungs)[1:] == [math.inf] * 10
    assert all(rung.n_failed == rung.n_sequences for rung in rungs[1:])


def test_bits_are_nats_over_the_logarithm_of_two_and_the_interval_is_normal() -> None:
    loss = Loss(mean=math.log(8), standard_error=0.1)
    assert loss.bits == pytest.approx(3)
    assert loss.interval == pytest.approx((math.log(8) - 0.195996, math.log(8) + 0.195996), abs=1e-6)


def tasks_of(folder: Path) -> dict[str, TaskPlan]:
    return {
        "digits": TaskPlan(name="digits"),
        "text": TaskPlan(name="text", parameters={"path": str(write_letters(folder))}),
        "piano_rolls": TaskPlan(name="piano_rolls", parameters={"path": str(write_rolls(folder))}),
    }


@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("name", ["digits", "text", "piano_rolls"])
def test_a_stack_trains_on_data_and_leaves_with_its_losses(tmp_path: Path, name: str, batches: str) -> None:
    training = replace(TRAINING, batches=batches, ladder=(1, 4, 10))  # type: ignore[arg-type]
    if name == "digits":
        training = replace(training, shortest=64, longest=64, ladder=(1, 32, 64))
    bracket = Bracket(plan(tasks_of(tmp_path)[name], n_members=4, training=training, cell="lstm"))
    left: dict[int, Outcome] = {}
    while not bracket.done:
        progress = bracket.advance()
        left |= {one.number: one.outcome for one in progress.departures}
        if progress.n_updates == 2:
            names = {metric.name for metrics in progress.metrics.values() for metric in metrics}
            assert {"interim/objective", "interim/loss/0", f"interim/loss/{training.ladder[-1]}"} <= names
    assert sorted((one.status, one.n_updates) for one in left.values()) == [
        *[(Status.COMPLETE, 3)] * 2,
        *[(Status.PRUNED, 2)] * 2,
    ]
    for outcome in left.values():
        assert [rung.length for rung in outcome.rungs] == [0, *training.ladder]
        constant, *_, full = means(outcome.rungs)
        assert outcome.value == outcome.skill == pytest.approx(max(0.0, 1 - full / constant))
        assert outcome.best_rung == outcome.rungs[-1]
        assert outcome.error_flow
        assert Outcome.from_json(outcome.to_json()) == outcome
    best = min(left.values(), key=lambda one: one.order)
    assert best.confirmed is not None
    assert best.confirmed.loss is not None
    assert best.confirmed.length == training.ladder[-1]


def test_the_probe_looks_at_single_answers_with_the_longest_training_length_before_them(tmp_path: Path) -> None:
    for name, (length, n) in {"digits": (64, 32), "text": (40, 32), "piano_rolls": (8, 1)}.items():
        training = replace(TRAINING, longest=64 if name == "digits" else 40)
        batch = yardstick(plan(tasks_of(tmp_path)[name], training=training)).probe_batch(32)
        # The longest held-out piece has nine frames, of which one is asked with the eight before it.
        assert batch.n_read == 1
        assert batch.inputs.shape[:2] == (length, n)


def test_an_exported_network_is_measured_again_on_the_test_part(tmp_path: Path) -> None:
    text = {"name": "text", "path": str(write_letters(tmp_path))}
    settings = [f"task={text}", "training.lengths=10", "ladder=[1, 10]", "n_hidden=5"]
    spec = parse_spec(DIGITS, settings)
    key = TrialKey(study=spec.name, model="lstm", number=0)
    record = TrialRecord(key=key, parameters={}, seed=3, status=Status.RUNNING, outcome=None, run_id=None)
    spec = spec.pinned(record)
    member = Member(number=0, hyperparameters=Hyperparameters(), seed=3)
    whole = spec.plan("cpu")
    stack = Stack(plan(whole.task, training=whole.training, seed=whole.seed, cell="lstm", members=(member,)))

    def put(folder: Path) -> None:
        save_file(stack.member_weights(0), folder / WEIGHTS)

    write_export(tmp_path / "export", spec, {}, put)
    session = Session(read_settings(tmp_path / "home"))
    (expected,) = stack.evaluate("confirmed/0", 1000, [0])
    # All of the test part is asked whatever the purpose; only the order, and so the rounding of sums, differs.
    again = session.evaluate(tmp_path / "export", n_sequences=1000, draw=0)
    assert means(again) == pytest.approx(means(expected), rel=1e-6)
    Path(text["path"]).unlink()
    with pytest.raises(UserError, match=r"letters\.txt cannot: No such file"):
        session.evaluate(tmp_path / "export", n_sequences=1000, draw=0)


DIGITS = """
name: pixels
task: {name: digits, order: permuted}
ladder: [1, 8, 64]
training: {lengths: 64}
models: {lstm: {cell: lstm}}
"""


def test_a_study_of_digits_is_accepted_and_planned() -> None:
    plan = parse_spec(DIGITS).plan("cpu")
    assert plan.task == TaskPlan(name="digits", parameters={"order": "permuted"})
    assert (plan.training.shortest, plan.training.longest, plan.training.ladder) == (64, 64, (1, 8, 64))


@pytest.mark.parametrize(
    ("setting", "saying"),
    [
        ("training.lengths=[10, 64]", "lengths of task digits must be 64 or more, but got 10"),
        ("training.lengths=[64, 100]", "lengths of task digits must be 64 or less, but got 100"),
        ("ladder=[8, 65]", "lengths of the ladder of task digits must be 64 or less, but got 65"),
        ("ladder=[8, 32]", "ladder must reach the shortest training length 64, but it ends at 32"),
        ("task.order=columns", "order must be one of rows, permuted, but got order='columns'"),
        (
            "task={name: text}",
            "the parameters of task text are path, and those without a default must be given, but got none",
        ),
        ("task={name: digit}", "unknown task 'digit'; did you mean 'digits'?"),
    ],
)
def test_a_study_of_data_is_refused_when_it_makes_no_sense(setting: str, saying: str) -> None:
    with pytest.raises(UserError, match=saying):
        parse_spec(DIGITS, [setting])


@pytest.mark.parametrize(
    ("task", "saying"),
    [
        ("{name: text, path: letters.txt}", "path must be absolute"),
        ("{name: text, path: /nowhere/letters.txt}", "/nowhere/letters.txt cannot: No such file or directory"),
        ("{name: piano_rolls, path: /dev/null}", "/dev/null cannot be read as one"),
    ],
)
def test_launch_refuses_data_that_is_not_there_before_anything_is_created(
    tmp_path: Path, task: str, saying: str
) -> None:
    session = Session(read_settings(tmp_path / "home"))
    # The study file alone makes sense: studies whose data is gone can still be listed and queried.
    spec = parse_spec(DIGITS, [f"task={task}"])
    with pytest.raises(UserError, match=saying) as refusal:
        session.launch(spec)
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "home").iterdir())
