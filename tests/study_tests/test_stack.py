"""A stack is its members: same trajectories as alone, whatever is mixed, compacted, saved or restored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from models import CELLS, FAST_CELLS
from study.plan import StackPlan
from study.training import stack as stack_module
from study.training.stack import Stack
from study_tests.stack_book import MIXED, PAYING, charged, plan


def kinds() -> list[tuple[str, str]]:
    return [
        (cell, dropout) for cell in CELLS for dropout in ("none", "dropout", *(["fast"] if cell in FAST_CELLS else []))
    ]


@pytest.mark.parametrize(("cell", "dropout"), kinds())
@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_train_gives_each_member_its_trajectory_alone_to_the_last_bit(
    dtype: torch.dtype, cell: str, dropout: str, batches: str
) -> None:
    # In single precision torch's exponential rounds a matrix by how many others there are.
    inexact = cell == "orthogonal_tanh" and dtype is torch.float32
    alone_and_together(plan(cell, dropout, batches), dtype, tolerance=1e-4 if inexact else 0.0)


# One output unit; a logistic one, of values; many answers; several logistic units; classes.
@pytest.mark.parametrize("task", ["adding", "two_sequence", "embedded_reber", "very_long_lag", "memorisation"])
@pytest.mark.parametrize(("cell", "dropout"), [("elman_tanh", "fast"), ("gru", "dropout"), ("lstm", "none")])
@pytest.mark.parametrize(("n_hidden", "n_sequences"), [(5, 7), (24, 1), (50, 20)])
def test_train_gives_each_member_its_trajectory_alone_whatever_the_task_and_the_sizes(
    n_hidden: int, n_sequences: int, cell: str, dropout: str, task: str
) -> None:
    whole = plan(cell, dropout, task=task)
    training = replace(whole.training, batch_size=n_sequences, shortest=12, longest=25, ladder=(25,))
    alone_and_together(replace(whole, n_hidden=n_hidden, training=training), torch.float32)


def test_train_on_data_that_lie_sequence_by_sequence_a_sequence_at_a_time() -> None:
    whole = plan("lstm", task="digits")
    training = replace(whole.training, batch_size=1, shortest=64, longest=64, ladder=(1, 64))
    alone_and_together(replace(whole, training=training), torch.float32)


def alone_and_together(whole: StackPlan, dtype: torch.dtype, tolerance: float = 0.0) -> None:
    together = Stack(whole, dtype=dtype)
    intervals = together.train(8)
    for some in ([0], [3], [1, 4]):
        alone = Stack(whole, members=[whole.members[k] for k in some], dtype=dtype)
        losses = [interval.loss for interval in alone.train(8)]
        assert losses == pytest.approx([intervals[k].loss for k in some], rel=tolerance, abs=tolerance)
        torch.testing.assert_close(alone.flat, together.flat[some], rtol=tolerance, atol=tolerance)
        assert alone.evaluate("test", 50, range(len(some))) == together.evaluate("test", 50, some)


@pytest.mark.parametrize(
    ("cell", "dropout"), [("elman_tanh", "none"), ("elman_tanh", "fast"), ("gru", "none"), ("lstm", "none")]
)
def test_probe_gives_each_member_what_it_gives_it_alone_to_the_last_bit(cell: str, dropout: str) -> None:
    whole = plan(cell, dropout)
    whole = replace(whole, n_hidden=16, training=replace(whole.training, shortest=20, longest=60, ladder=(60,)))
    together = Stack(whole)
    together.train(2)
    for probed, member in zip(together.probe(), whole.members, strict=True):
        alone = Stack(whole, members=[member])
        alone.train(2)
        # By their words, for no number is equal to itself where it is none.
        assert repr(alone.probe()) == repr([probed])


@pytest.mark.parametrize("task", ["temporal_order", "adding"])
@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("dropout", ["none", "dropout", "fast"])
@pytest.mark.parametrize("items", [1, 1000])
def test_train_in_groups_of_members_is_training_them_together(
    monkeypatch: pytest.MonkeyPatch, items: int, dropout: str, batches: str, task: str
) -> None:
    whole = plan("elman_tanh", dropout, batches, task)
    together, parted = Stack(whole, dtype=torch.float64), Stack(whole, dtype=torch.float64)
    losses = [interval.loss for interval in together.train(5)]
    monkeypatch.setattr(stack_module, "GROUP_ITEMS", items)
    assert [interval.loss for interval in parted.train(5)] == losses
    assert torch.equal(parted.flat, together.flat)


def test_train_differs_between_members_with_own_batches_and_equal_hyperparameters() -> None:
    own = plan("elman_tanh", batches="own")
    same = tuple(replace(member, hyperparameters=MIXED[0]) for member in own.members[:2])
    stack = Stack(replace(own, members=same))
    stack.train(3)
    assert not torch.equal(stack.flat[0], stack.flat[1])


@pytest.mark.parametrize("batches", ["shared", "own"])
def test_noise_that_no_member_reads_is_not_drawn_and_changes_no_other(batches: str) -> None:
    stack = Stack(plan("elman_tanh", "dropout", batches))
    plain, asking = stack.members[:1], stack.members[:2]
    (_, little), (_, much) = (stack.feed.draw(3, members) for members in (plain, asking))
    assert little is not None
    assert much is not None
    assert little.outputs is little.symbols is much.symbols is None
    assert much.outputs is not None
    first = much.of(slice(1)) if batches == "own" else much
    assert torch.equal(first.inputs, little.inputs)
    assert torch.equal(first.recurrent, little.recurrent)
    (_, all_noise) = stack.feed.draw(3, stack.members)
    assert all_noise is not None
    assert all_noise.symbols is not None


def test_compact_leaves_the_others_on_their_way() -> None:
    whole = plan("lstm")
    shrunk, full = Stack(whole, dtype=torch.float64), Stack(whole, dtype=torch.float64)
    shrunk.train(7)
    shrunk.compact([1, 3])
    shrunk.train(7)
    full.train(14)
    assert [member.number for member in shrunk.members] == [1, 3]
    assert torch.equal(shrunk.flat, full.flat[[1, 3]])


def test_from_bytes_goes_on_as_if_never_interrupted() -> None:
    whole = plan("gru", "dropout")
    stack = Stack(whole)
    stack.train(6)
    stack.compact([0, 2, 3])
    restored = Stack.from_bytes(whole, stack.to_bytes())
    stack.train(9)
    restored.train(9)
    assert restored.n_updates == stack.n_updates == 15
    assert [member.number for member in restored.members] == [0, 2, 3]
    assert torch.equal(restored.flat, stack.flat)


def test_load_weights_puts_back_what_member_weights_gave() -> None:
    whole = plan("lstm")
    trained, blank = Stack(whole), Stack(whole)
    trained.train(5)
    blank.load_weights([trained.member_weights(k) for k in range(len(MIXED))])
    assert torch.equal(blank.flat, trained.flat)


@pytest.mark.parametrize("dropout", ["none", "dropout"])
@pytest.mark.parametrize("items", [1, 10**6])
@pytest.mark.parametrize("paying", PAYING.values(), ids=PAYING.keys())
def test_train_spares_members_that_pay_nothing_and_gives_the_others_their_trajectory_alone(
    monkeypatch: pytest.MonkeyPatch, dropout: str, items: int, paying: dict[int, dict[str, Any]]
) -> None:
    monkeypatch.setattr(stack_module, "GROUP_ITEMS", items)
    whole = plan("elman_tanh", dropout)
    paid = charged(whole, paying)
    plain, mixed = Stack(whole, dtype=torch.float64), Stack(paid, dtype=torch.float64)
    plain.train(5)
    metrics = [interval.metrics for interval in mixed.train(5)]
    for k, member in enumerate(paid.members):
        assert torch.equal(mixed.flat[k], plain.flat[k]) == (k not in paying)
        assert math.isnan(metrics[k]["omega"]) == ("omega_weight" not in paying.get(k, {}))
        alone = Stack(replace(whole, members=(member,)), dtype=torch.float64)
        (interval,) = alone.train(5)
        # Beside members that pay for all of their states Omega is summed in another order.
        tolerance = 1e-10 if paying is PAYING["both"] else 0.0
        torch.testing.assert_close(mixed.flat[k], alone.flat[0], rtol=tolerance, atol=tolerance)
        assert metrics[k]["omega"] == pytest.approx(interval.metrics["omega"], rel=tolerance, abs=0, nan_ok=True)
