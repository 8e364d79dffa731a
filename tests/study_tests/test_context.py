"""Contexts: what is measured on real data, with predictors whose memory is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from study.outcome import Loss, Rung
from study.plan import TaskPlan
from study.training.context import Contexts
from study.training.measure import yardstick
from study.training.stack import Stack
from study_tests.context_book import TRAINING, means, plan
from tasks import Batch, Dataset
from tasks_tests.data_files import write_letters

LAG, N_LETTERS = 4, 3


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
