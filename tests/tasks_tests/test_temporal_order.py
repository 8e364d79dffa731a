"""Temporal order against what its papers say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tasks.task import Batch
from tasks.temporal_order import NSymbols, TemporalOrder, Variant
from tasks_tests.task_book import draws

N = 20_000
STARTS: dict[tuple[Variant, NSymbols], tuple[int, ...]] = {
    ("pascanu2013_code", 2): (10, 50),
    ("pascanu2013_text", 2): (10, 40),
    ("hochreiter1997", 2): (10, 50),
    ("pascanu2013_code", 3): (10, 30, 60),
    ("pascanu2013_text", 3): (10, 30, 60),
    ("hochreiter1997", 3): (10, 33, 66),
}
"""First step of each window in sequences of 100 steps."""

every_variant = pytest.mark.parametrize(("variant", "n_symbols"), STARTS)


def draw(variant: Variant, n_symbols: NSymbols, n_sequences: int, length: int) -> Batch:
    task = TemporalOrder(variant=variant, n_symbols=n_symbols)
    return task.sample(draws(n_sequences, seed=length), length)


def assert_uniform(counts: list[int]) -> None:
    # Six standard errors of a binomial count.
    share = 1 / len(counts)
    bound = 6 * math.sqrt(sum(counts) * share * (1 - share))
    assert all(abs(count - sum(counts) * share) < bound for count in counts)


@every_variant
def test_sample_puts_symbols_where_the_paper_does(variant: Variant, n_symbols: NSymbols) -> None:
    steps = (draw(variant, n_symbols, N, 100).inputs < 2).T.nonzero()[:, 1].view(N, n_symbols)
    for place, low in enumerate(STARTS[variant, n_symbols]):
        counts = steps[:, place].bincount(minlength=100)[low : low + 10].tolist()
        assert sum(counts) == N
        assert_uniform(counts)


@every_variant
def test_sample_has_all_relevant_symbols_at_every_length(variant: Variant, n_symbols: NSymbols) -> None:
    for length in range(TemporalOrder(variant=variant).shortest_length, 130):
        assert ((draw(variant, n_symbols, 100, length).inputs < 2).sum(0) == n_symbols).all()


@every_variant
def test_sample_draws_classes_and_distractors_evenly(variant: Variant, n_symbols: NSymbols) -> None:
    batch = draw(variant, n_symbols, N, 30)
    assert_uniform(batch.targets.flatten().bincount(minlength=2**n_symbols).tolist())
    assert_uniform(batch.inputs.flatten().bincount(minlength=6)[2:6].tolist())


@every_variant
def test_sample_names_classes_by_the_order_of_the_symbols(variant: Variant, n_symbols: NSymbols) -> None:
    batch = draw(variant, n_symbols, 60, 25)
    words = ["".join(letters) for letters in itertools.product("AB", repeat=n_symbols)]
    for sequence, target in zip(batch.inputs.T.tolist(), batch.targets[0].tolist(), strict=True):
        assert words[target] == "".join("AB"[code] for code in sequence if code < 2)


@pytest.mark.parametrize("n_symbols", [2, 3])
def test_sample_begins_and_ends_with_symbols_of_their_own_in_hochreiter1997(n_symbols: NSymbols) -> None:
    inputs = draw("hochreiter1997", n_symbols, 500, 37).inputs
    assert (inputs[0] == 6).all()
    assert (inputs[-1] == 7).all()
    assert (inputs[1:-1] < 6).all()
    # Their networks have 8 inputs, and 4 or 8 outputs.
    task = TemporalOrder(variant="hochreiter1997", n_symbols=n_symbols)
    assert (task.n_in, task.n_out) == (8, 2**n_symbols)


@every_variant
def test_min_lag_is_eight_tenths_of_the_length_or_more(variant: Variant, n_symbols: NSymbols) -> None:
    task = TemporalOrder(variant=variant, n_symbols=n_symbols)
    assert task.min_lag(100) == 80
    assert all(10 * task.min_lag(length) >= 8 * length for length in range(task.shortest_length, 1000))


def test_shortest_length_is_the_least_that_allows_that_lag() -> None:
    too_short = TemporalOrder.shortest_length - 1
    # The first symbol cannot stand before step 0.
    assert 10 * (too_short - 1) < 8 * too_short


def test_failed_is_a_wrong_arg_max_in_pascanu2013() -> None:
    batch = Batch(inputs=torch.zeros(5, 4, dtype=torch.int64), targets=torch.tensor([[0, 1, 2, 3]]))
    outputs = torch.tensor([[0.1, 0, 0, 0], [5, 4.9, 0, 0], [-9, -9, -8, -9], [0, 0, 0, math.inf]])
    assert TemporalOrder().failed(batch, outputs[None, None]).tolist() == [[False, True, False, False]]


def test_failed_is_a_unit_off_by_three_tenths_in_hochreiter1997() -> None:
    batch = Batch(inputs=torch.zeros(5, 4, dtype=torch.int64), targets=torch.tensor([[0, 0, 0, 1]]))
    units = torch.tensor([[0.71, 0.29, 0.29, 0.29], [0.69, 0, 0, 0], [1, 0, 0.31, 0], [1, 0, 0, 0]])
    failed = TemporalOrder(criterion="hochreiter1997").failed(batch, units.logit()[None, None])
    assert failed.tolist() == [[False, True, True, True]]
