"""What training does to the members of a stack: what it clips, spares, shrinks and reports."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from study.plan import Hyperparameters, Member
from study.training.stack import Stack
from study_tests.stack_book import MIXED, TRAINING, plan


def test_a_chain_is_as_deep_as_the_longest_sequence_and_learns_where_training_reaches() -> None:
    whole = plan("untied_tanh")
    stack = Stack(replace(whole, training=replace(TRAINING, ladder=(10, 17))))
    before = stack.weights["recurrent"].clone()
    assert before.shape == (5, 17, 7, 7)
    stack.train(20)
    moved = (stack.weights["recurrent"] != before).flatten(2).any(2)
    # The longest training sequence has 14 steps, and its first layer meets the zero state; the third member's errors
    # flow back through 5 layers only, and all weights of the last member decay.
    assert [row.count(True) for row in moved[:-1].tolist()] == [13, 13, 5, 13]
    assert moved[:-1, -5:].all()
    assert moved[[0, 1, 3], -13:].all()
    (rungs,) = stack.evaluate("test", 100, [0], (17,))
    assert [rung.length for rung in rungs] == [17]


def test_train_clips_each_member_at_its_own_norm() -> None:
    whole = plan("elman_tanh")
    sgd = Hyperparameters(init="orthogonal", init_scale=3.0, optimiser="sgd", learning_rate=1.0)
    norms = (1e-3, 0.2, float("inf"))
    members = tuple(
        Member(number=k, hyperparameters=replace(sgd, clip_norm=norm), seed=5) for k, norm in enumerate(norms)
    )
    stack = Stack(replace(whole, members=members), dtype=torch.float64)
    before = stack.flat.clone()
    intervals = stack.train(1)
    moved = (stack.flat - before).norm(dim=1).tolist()
    raw = intervals[2].metrics["gradient/norm"]
    assert moved == pytest.approx([min(raw, norm) for norm in norms], rel=1e-12)
    assert [one.metrics["gradient/clipped_fraction"] for one in intervals] == [float(raw > norm) for norm in norms]


def test_train_leaves_the_rates_of_leaky_units_as_they_were_drawn_whatever_the_optimiser() -> None:
    members = plan("leaky_tanh").members
    chosen = [replace(member.hyperparameters, weight_decay=0.1, leaky_share=k / 4) for k, member in enumerate(members)]
    mixed = tuple(replace(member, hyperparameters=one) for member, one in zip(members, chosen, strict=True))
    stack = Stack(replace(plan("leaky_tanh"), members=mixed))
    before = {name: tensor.clone() for name, tensor in stack.weights.items()}
    stack.train(5)
    assert torch.equal(stack.weights["retention"], before["retention"])
    assert (before["retention"] > 0).sum(1).tolist() == [round(k / 4 * 7) for k in range(5)]
    assert all((stack.weights["recurrent"] != before["recurrent"]).flatten(1).any(1))


def test_train_leaves_connections_that_a_member_lacks_at_zero_whatever_the_optimiser() -> None:
    whole = plan("state_space")
    chosen = [
        replace(member.hyperparameters, connectivity=share)
        for member, share in zip(whole.members, (0.3, 0.3, 1.0, 0.7, 0.5), strict=True)
    ]
    members = tuple(replace(member, hyperparameters=one) for member, one in zip(whole.members, chosen, strict=True))
    # Identity and sparse matrices have zeros of their own, which are trained.
    stack = Stack(replace(whole, members=members), dtype=torch.float64)
    stack.train(3)
    stack = Stack.from_bytes(stack.plan, stack.to_bytes())
    stack.train(3)
    assert (stack.weights["recurrent"] != 0).sum(1).tolist() == [[n] * 7 for n in (2, 2, 7, 5, 4)]
    stack.compact([3, 1])
    stack.train(3)
    assert (stack.weights["recurrent"] != 0).sum(1).tolist() == [[5] * 7, [2] * 7]
    for k, number in enumerate((3, 1)):
        alone = Stack(replace(whole, members=(members[number],)), dtype=torch.float64)
        alone.train(9)
        assert torch.equal(stack.flat[k], alone.flat[0])


def test_diverged_names_the_member_that_is_not_finite() -> None:
    stack = Stack(plan("elman_tanh"))
    stack.flat[2, 4] = float("inf")
    assert stack.diverged() == [k == 2 for k in range(len(MIXED))]


def test_train_reports_a_members_non_finite_gradients_and_spares_the_others() -> None:
    whole = plan("elman_rectifier")
    wild = Hyperparameters(init="identity", init_scale=1e3, optimiser="sgd", learning_rate=1.0, clip_norm=float("inf"))
    members = (Member(number=0, hyperparameters=wild, seed=1), whole.members[1])
    stack = Stack(replace(whole, members=members))
    wild_one, tame = stack.train(10)
    assert stack.diverged() == [True, False]
    assert wild_one.metrics["gradient/nonfinite"] > 0
    assert tame.metrics["gradient/nonfinite"] == 0
    alone = Stack(replace(whole, members=(members[1],)))
    alone.train(10)
    assert torch.equal(stack.flat[1], alone.flat[0])


def test_train_knows_no_update_ratio_of_what_was_zero() -> None:
    stack = Stack(plan("elman_tanh"))
    assert not stack.weights["bias"].any()
    first, second = (stack.train(1)[0].metrics for _ in range(2))
    for name in ("bias", "readout_bias"):
        assert math.isnan(first[f"update_ratio/{name}"])
        assert 0 < second[f"update_ratio/{name}"] < math.inf
    assert 0 < first["update_ratio/recurrent"] < math.inf


def test_train_goes_on_with_less_recurrence_where_gradients_explode_and_there_is_a_fallback() -> None:
    whole = plan("elman_rectifier")
    wild = Hyperparameters(init="identity", init_scale=1e3, optimiser="sgd", learning_rate=1.0)
    members = tuple(
        Member(number=k, hyperparameters=replace(wild, clip_fallback=fallback), seed=1)
        for k, fallback in enumerate(("none", "shrink_recurrent"))
    )
    stack = Stack(replace(whole, members=members))
    before = {name: tensor.clone() for name, tensor in stack.weights.items()}
    interval = stack.train(10)[1]
    assert stack.diverged() == [True, False]
    # Every one of the gradients is too large to be trusted.
    torch.testing.assert_close(stack.weights["recurrent"][1], 0.98**10 * before["recurrent"][1])
    for name in before.keys() - {"recurrent"}:
        assert torch.equal(stack.weights[name][1], before[name][1])
    assert interval.metrics["gradient/norm"] > 1e10 or interval.metrics["gradient/nonfinite"] > 0


def test_train_with_a_penalty_on_states_makes_them_smaller() -> None:
    whole = plan("elman_rectifier")
    members = tuple(
        Member(number=k, hyperparameters=Hyperparameters(learning_rate=0.05, l1_states=factor), seed=1)
        for k, factor in enumerate((0.0, 0.1))
    )
    stack = Stack(replace(whole, members=members))
    stack.train(20)
    free, sparse = (probe.metrics["state/activity"] for probe in stack.probe())
    assert sparse < 0.5 * free


def test_train_clips_the_gradient_with_omega_in_it() -> None:
    whole = plan("elman_tanh")
    paying = Hyperparameters(init="gaussian", learning_rate=1.0, clip_norm=1e-3, omega_weight=100.0)
    stack = Stack(replace(whole, members=(Member(number=0, hyperparameters=paying, seed=5),)), dtype=torch.float64)
    before = stack.flat.clone()
    (interval,) = stack.train(1)
    assert (stack.flat - before).norm().item() == pytest.approx(1e-3, rel=1e-12)
    assert interval.metrics["gradient/norm/recurrent"] > 0.99 * interval.metrics["gradient/norm"] > 1


@pytest.mark.parametrize("cell", ["elman_tanh", "lstm"])
def test_probe_measures_the_whole_error_flow_of_a_member_that_trains_on_a_truncated_one(cell: str) -> None:
    members = tuple(
        Member(number=k, hyperparameters=Hyperparameters(bptt_steps=steps), seed=1)
        for k, steps in enumerate((math.inf, 4))
    )
    stack = Stack(replace(plan(cell), members=members))
    whole, truncated = stack.probe()
    assert truncated.error_flow == pytest.approx(whole.error_flow, rel=1e-5)
    assert truncated.metrics["gradient/horizon"] > 4
    untrained = stack.flat.clone()
    stack.train(1)
    assert not torch.equal(stack.flat[0] - untrained[0], stack.flat[1] - untrained[1])
