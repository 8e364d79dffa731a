"""A stack is its members: same trajectories as alone, whatever is mixed, compacted, saved or restored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from models import CELLS, FAST_CELLS
from study.plan import Hyperparameters, Member, StackPlan, TaskPlan
from study.training import stack as stack_module
from study.training.stack import Stack
from study_tests import plan_book
from study_tests.plan_book import STACK

TRAINING = replace(
    plan_book.TRAINING,
    n_updates=20,
    batch_size=6,
    shortest=8,
    longest=14,
    report_every=10,
    evaluate_every=20,
    ladder=(10, 14),
)

MIXED = (
    Hyperparameters(init="gaussian", optimiser="sgd", learning_rate=0.1, clip_norm=0.5),
    Hyperparameters(init="identity", init_scale=0.9, optimiser="adam", learning_rate=0.01, bias_init="chrono"),
    Hyperparameters(
        init="orthogonal", input_scale=0.3, optimiser="nesterov", learning_rate=0.05, forget_bias=3.0, bptt_steps=5
    ),
    Hyperparameters(init="sparse", init_scale=1.2, optimiser="rmsprop", learning_rate=0.003, clip_norm=float("inf")),
    Hyperparameters(init="basic_tanh", optimiser="vario_eta", weight_decay=0.01, clip_fallback="shrink_recurrent"),
)

MIXED_NOISE: tuple[dict[str, Any], ...] = (
    {},
    {"p_drop_output": 0.3, "fast_readout": "moments"},
    {"dropout_masks": "sequence"},
    {"fast_readout": "moments"},
    {"p_drop_output": 0.2, "dropout_masks": "sequence"},
)
"""What the members say of dropout beside the rates that all have, where there is any."""


def plan(cell: str, dropout: str = "none", batches: str = "shared", task: str = "temporal_order") -> StackPlan:
    def noisy(chosen: Hyperparameters, noise: dict[str, Any]) -> Hyperparameters:
        if dropout == "none":
            return chosen
        return replace(chosen, dropout=dropout, p_drop_input=0.1, p_drop_recurrent=0.2, **noise)

    members = tuple(
        Member(number=number, hyperparameters=noisy(*both), seed=100 + number)
        for number, both in enumerate(zip(MIXED, MIXED_NOISE, strict=True))
    )
    training = replace(TRAINING, batches=batches)
    return replace(STACK, cell=cell, n_hidden=7, task=TaskPlan(name=task), training=training, seed=11, members=members)


def kinds() -> list[tuple[str, str]]:
    return [
        (cell, dropout) for cell in CELLS for dropout in ("none", "dropout", *(["fast"] if cell in FAST_CELLS else []))
    ]


@pytest.mark.parametrize(("cell", "dropout"), kinds())
@pytest.mark.parametrize("batches", ["shared", "own"])
def test_train_gives_each_member_its_trajectory_alone(cell: str, dropout: str, batches: str) -> None:
    whole = plan(cell, dropout, batches)
    together = Stack(whole, dtype=torch.float64)
    losses = together.train(20)
    for k, member in enumerate(whole.members):
        alone = Stack(replace(whole, members=(member,)), dtype=torch.float64)
        loss = alone.train(20)[0]
        # In float64 only the order of sums may differ; twenty updates amplify it.
        torch.testing.assert_close(together.flat[k], alone.flat[0], rtol=1e-9, atol=1e-11)
        assert losses[k].loss == pytest.approx(loss.loss, rel=1e-9)


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
    assert [interval.loss for interval in parted.train(5)] == pytest.approx(losses, rel=1e-12)
    torch.testing.assert_close(parted.flat, together.flat, rtol=1e-11, atol=1e-13)


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


def test_train_gives_each_member_its_trajectory_alone_to_rounding_in_float32() -> None:
    whole = plan("elman_tanh")
    together = Stack(whole)
    together.train(20)
    for k, member in enumerate(whole.members):
        alone = Stack(replace(whole, members=(member,)))
        alone.train(20)
        # Float32 rounding, amplified over twenty updates.
        torch.testing.assert_close(together.flat[k], alone.flat[0], rtol=1e-3, atol=1e-4)


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


def test_compact_leaves_the_others_on_their_way() -> None:
    whole = plan("lstm")
    shrunk, full = Stack(whole, dtype=torch.float64), Stack(whole, dtype=torch.float64)
    shrunk.train(7)
    shrunk.compact([1, 3])
    shrunk.train(7)
    full.train(14)
    assert [member.number for member in shrunk.members] == [1, 3]
    torch.testing.assert_close(shrunk.flat, full.flat[[1, 3]], rtol=1e-9, atol=1e-11)


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
        # In float64 only the order of sums may differ.
        torch.testing.assert_close(stack.flat[k], alone.flat[0], rtol=1e-9, atol=1e-11)


def test_load_weights_puts_back_what_member_weights_gave() -> None:
    whole = plan("lstm")
    trained, blank = Stack(whole), Stack(whole)
    trained.train(5)
    blank.load_weights([trained.member_weights(k) for k in range(len(MIXED))])
    assert torch.equal(blank.flat, trained.flat)


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
    # Float32 rounding over ten updates.
    torch.testing.assert_close(stack.flat[1], alone.flat[0], rtol=1e-3, atol=1e-4)


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


CODE, EQ9 = {"omega_form": "pascanu2013_code"}, {"omega_form": "pascanu2013_eq9"}

PAYING = {
    "omega": {1: {"omega_weight": 2.0, **CODE}, 3: {"omega_weight": 0.5, **EQ9}},
    "l1": {0: {"l1_states": 0.01}, 3: {"l1_states": 0.1}},
    "both": {1: {"l1_states": 0.1, "omega_weight": 0.5, **CODE}, 2: {"omega_weight": 0.5, **EQ9}},
}
"""What some members pay beside their loss, by their number."""


@pytest.mark.parametrize("dropout", ["none", "dropout"])
@pytest.mark.parametrize("items", [1, 10**6])
@pytest.mark.parametrize("paying", PAYING.values(), ids=PAYING.keys())
def test_train_spares_members_that_pay_nothing_and_gives_the_others_their_trajectory_alone(
    monkeypatch: pytest.MonkeyPatch, dropout: str, items: int, paying: dict[int, dict[str, Any]]
) -> None:
    monkeypatch.setattr(stack_module, "GROUP_ITEMS", items)
    whole = plan("elman_tanh", dropout)
    members = tuple(
        replace(member, hyperparameters=replace(member.hyperparameters, **paying.get(k, {})))
        for k, member in enumerate(whole.members)
    )
    plain, mixed = Stack(whole, dtype=torch.float64), Stack(replace(whole, members=members), dtype=torch.float64)
    plain.train(5)
    metrics = [interval.metrics for interval in mixed.train(5)]
    for k, member in enumerate(members):
        assert torch.equal(mixed.flat[k], plain.flat[k]) == (k not in paying)
        assert math.isnan(metrics[k]["omega"]) == ("omega_weight" not in paying.get(k, {}))
        alone = Stack(replace(whole, members=(member,)), dtype=torch.float64)
        (interval,) = alone.train(5)
        # In float64 only the order of sums may differ.
        torch.testing.assert_close(mixed.flat[k], alone.flat[0], rtol=1e-10, atol=1e-12)
        assert metrics[k]["omega"] == pytest.approx(interval.metrics["omega"], nan_ok=True)


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
