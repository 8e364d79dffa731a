"""What a stack does with its hyperparameters is what a loop of torch would do with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import SGD, Adam, Optimizer

from models.dropout import Keep, Noise
from models.network import Network
from study.plan import Hyperparameters, Member
from study.training import feed
from study.training.rule import EPSILON
from study.training.stack import Stack
from study.training.start import first_parameters
from study_tests import stack_book
from tasks import Batch

N_UPDATES = 10

SIMPLE = Hyperparameters(optimiser="sgd", learning_rate=0.1, clip_norm=math.inf)
CLIPPED = Hyperparameters(optimiser="adam", learning_rate=0.01, momentum=0.8, square_decay=0.95, clip_norm=0.3)

Leaves = Mapping[str, Tensor]
Forward = Callable[[Leaves, Batch, Noise | None, Hyperparameters], Tensor]
"""Outputs at the last step, ``[B, n_out]``, of one member."""


def elman(w: Leaves, batch: Batch, noise: Noise | None, h: Hyperparameters) -> Tensor:
    hidden = w["recurrent"].new_zeros(batch.inputs.shape[1], len(w["recurrent"]))
    for t, codes in enumerate(batch.inputs):
        x, back = one_hot(codes, len(w["input"])).to(hidden), hidden
        if noise is not None:
            # Inverted dropout: what is kept is divided by the probability of being kept.
            p_input, p_recurrent = 1 - h.p_drop_input, 1 - h.p_drop_recurrent
            x = x * (noise.inputs[t] < p_input) / p_input
            back = back * (noise.recurrent[t] < p_recurrent) / p_recurrent
        hidden = torch.tanh(x @ w["input"] + w["bias"] + back @ w["recurrent"])
    return hidden @ w["readout"] + w["readout_bias"]


def lstm(w: Leaves, batch: Batch, noise: Noise | None, h: Hyperparameters) -> Tensor:
    hidden = cell = w["recurrent"].new_zeros(batch.inputs.shape[1], len(w["recurrent"]))
    for codes in batch.inputs:
        net = one_hot(codes, len(w["input"])).to(hidden) @ w["input"] + w["bias"] + hidden @ w["recurrent"]
        i, f, g, o = net.chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
    return hidden @ w["readout"] + w["readout_bias"]


def fast(network: Network) -> Forward:
    """Moments are other tests' business; whose rates they are taken with is this one's."""

    def forward(w: Leaves, batch: Batch, noise: Noise | None, h: Hyperparameters) -> Tensor:
        rates = (w["bias"].new_tensor([1 - rate]) for rate in (h.p_drop_input, h.p_drop_recurrent))
        keep = Keep(**dict(zip(("inputs", "recurrent"), rates, strict=True)))
        stacked = {name: one[None] for name, one in w.items()}
        return network.output(stacked, batch.inputs, keep=keep, noise=None, n_read=1)[0, 0]

    return forward


def optimiser_of(w: Leaves, h: Hyperparameters) -> Optimizer:
    if h.optimiser == "sgd":
        return SGD(w.values(), lr=h.learning_rate)
    return Adam(w.values(), lr=h.learning_rate, betas=(h.momentum, h.square_decay), eps=EPSILON)


@pytest.mark.parametrize("chosen", [SIMPLE, CLIPPED], ids=["sgd", "adam, clipped"])
@pytest.mark.parametrize(
    ("cell", "dropout"), [("elman_tanh", "none"), ("elman_tanh", "dropout"), ("elman_tanh", "fast"), ("lstm", "none")]
)
@pytest.mark.parametrize("batches", ["shared", "own"])
def test_training_is_that_of_a_loop_of_torch(chosen: Hyperparameters, cell: str, dropout: str, batches: str) -> None:
    # Rates that differ from member to member, from one another, and from their complements.
    rates = [(0.1, 0.4), (0.3, 0.2)] if dropout != "none" else [(0.0, 0.0)] * 2
    members = tuple(
        Member(
            number=k,
            seed=5 + k,
            hyperparameters=replace(chosen, dropout=dropout, p_drop_input=inputs, p_drop_recurrent=recurrent),
        )
        for k, (inputs, recurrent) in enumerate(rates)
    )
    plan = replace(stack_book.plan(cell, dropout, batches), members=members)
    stack = Stack(plan, dtype=torch.float64)
    forward = {"elman_tanh": elman, "lstm": lstm}[cell] if dropout != "fast" else fast(stack.network)
    before = [stack.member_weights(k) for k in range(len(members))]
    drawn = [stack.feed.draw(n, stack.members) for n in range(N_UPDATES)]
    intervals = stack.train(N_UPDATES)
    for k, member in enumerate(members):
        h = member.hyperparameters
        w = {name: one.requires_grad_() for name, one in before[k].items()}
        optimiser, losses = optimiser_of(w, h), []
        for batch, noise in drawn:
            own = batch if batches == "shared" else Batch(inputs=batch.inputs[k], targets=batch.targets[k])
            mine = noise if noise is None or batches == "shared" else noise.of(slice(k, k + 1))
            if mine is not None and batches == "own":
                mine = replace(mine, inputs=mine.inputs[0], recurrent=mine.recurrent[0])
            loss = cross_entropy(forward(w, own, mine, h), own.targets[0])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(w.values(), h.clip_norm)
            optimiser.step()
            losses.append(loss.item())
        # Torch adds 1e-6 to the norm that it divides by; noise is drawn in single precision.
        assert intervals[k].loss == pytest.approx(sum(losses) / N_UPDATES, rel=1e-5)
        for name, one in w.items():
            torch.testing.assert_close(stack.weights[name][k], one.detach(), rtol=1e-4, atol=1e-7)


def test_updates_see_sequences_and_masks_of_their_own() -> None:
    plan = stack_book.plan("elman_tanh", "dropout")
    stack = Stack(replace(plan, training=replace(plan.training, shortest=10, longest=10)))
    (one, first), (other, second) = (stack.feed.draw(n, stack.members) for n in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(one.inputs, other.inputs)
    for name in ("inputs", "recurrent", "outputs", "symbols"):
        assert not torch.equal(getattr(first, name), getattr(second, name)), name


@pytest.mark.parametrize(("dropout", "n_items"), [("none", 0), ("none", 150), ("none", 10**6), ("dropout", 10**6)])
@pytest.mark.parametrize("batches", ["shared", "own"])
def test_what_is_drawn_ahead_is_what_each_update_would_draw_and_bounded(
    batches: str, dropout: str, n_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "AHEAD_ITEMS", n_items)
    stack = Stack(stack_book.plan("elman_tanh", dropout, batches))
    alone = [stack.feed.draw(n, stack.members) for n in range(3, 3 + N_UPDATES)]
    sizes = [batch.inputs.numel() + batch.targets.numel() for batch, _ in alone]
    # Lengths are mixed, and so is how many updates are drawn at a time.
    assert len(set(sizes)) > 1
    draw, drawn, groups = stack.feed.draw, list[int](), set[int]()

    def spy(update: int, members: Sequence[Member]) -> tuple[Batch, Noise | None]:
        drawn.append(update)
        return draw(update, members)

    monkeypatch.setattr(stack.feed, "draw", spy)
    for n, (batch, noise) in enumerate(stack.feed.draws(3, N_UPDATES, stack.members)):
        assert drawn[n] == 3 + n
        waiting = sizes[n : len(drawn)]
        assert sum(waiting[:-1]) < max(n_items, 1)
        groups.add(len(drawn))
        torch.testing.assert_close(asdict(batch), asdict(alone[n][0]), rtol=0, atol=0)
        torch.testing.assert_close(noise and asdict(noise), alone[n][1] and asdict(alone[n][1]), rtol=0, atol=0)
    assert len(drawn) == N_UPDATES
    if dropout == "dropout" or n_items == 0:
        assert len(groups) == N_UPDATES
    elif n_items > sum(sizes):
        assert len(groups) == 1
    elif n_items > max(sizes):
        # No group is of one.
        assert 1 < len(groups) <= N_UPDATES / 2


def test_members_are_measured_with_their_own_rates() -> None:
    plan = stack_book.plan("elman_tanh", "fast")
    members = tuple(
        replace(member, hyperparameters=replace(member.hyperparameters, p_drop_recurrent=0.15 * number))
        for number, member in enumerate(plan.members)
    )
    stack = Stack(replace(plan, members=members))
    stack.train(20)
    every = stack.evaluate("some", 1000, range(len(members)))
    assert len({rungs[0].n_failed for rungs in every}) > 2
    assert stack.evaluate("some", 1000, [1, 3]) == [every[1], every[3]]


def test_a_member_starts_as_its_hyperparameters_say() -> None:
    def parts(cell: str, **chosen: float | str) -> dict[str, Tensor]:
        net = Stack(replace(stack_book.plan(cell), n_hidden=200)).network
        flat = first_parameters(net, Member(number=0, seed=3, hyperparameters=Hyperparameters(**chosen)))  # type: ignore[arg-type]
        sizes = [math.prod(shape) for shape in net.shapes().values()]
        return dict(zip(net.shapes(), flat.split(sizes), strict=True))

    plain, scaled = parts("lstm"), parts("lstm", input_scale=3.0, init_scale=0.5, forget_bias=2.5)
    torch.testing.assert_close(scaled["input"], 3 * plain["input"])
    torch.testing.assert_close(scaled["recurrent"], 0.5 * plain["recurrent"])
    blocks = scaled["bias"].view(4, 200)
    assert blocks.unique().tolist() == [0.0, 2.5]
    assert bool((blocks[1] == 2.5).all())
    chrono = parts("lstm", bias_init="chrono", chrono_length=50.0)["bias"].view(4, 200)
    torch.testing.assert_close(chrono[0], -chrono[1])
    assert 1 < float(chrono[1].exp().min()) < float(chrono[1].exp().max()) < 49
    leaky = parts("leaky_tanh", leak_low=0.2, leak_high=0.3, leaky_share=0.5)
    (rates,) = (leaky[name] for name in leaky if name == "retention")
    # A unit without a leak retains nothing of what it was; the others 1 - leak.
    held = 1 - rates[rates != 0]
    assert 0.2 <= float(held.min()) < 0.22
    assert 0.28 < float(held.max()) <= 0.3
