"""Temporal order against what its papers say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator
from torch.nn.functional import cross_entropy

from tasks.task import Batch
from tasks.temporal_order import TemporalOrder, Window

N = 20_000
SECOND = {"pascanu2013_code": 50, "pascanu2013_text": 40}

both_windows = pytest.mark.parametrize("window", SECOND)


def draw(window: Window, n_sequences: int, length: int) -> Batch:
    return TemporalOrder(window=window).sample(Generator().manual_seed(length), n_sequences, length)


def assert_uniform(counts: list[int]) -> None:
    # Six standard errors of a binomial count.
    share = 1 / len(counts)
    bound = 6 * math.sqrt(sum(counts) * share * (1 - share))
    assert all(abs(count - sum(counts) * share) < bound for count in counts)


@both_windows
def test_sample_puts_symbols_where_the_paper_does(window: Window) -> None:
    steps = (draw(window, N, 100).inputs < 2).T.nonzero()[:, 1].view(N, 2)
    for place, low in enumerate((10, SECOND[window])):
        counts = steps[:, place].bincount(minlength=100)[low : low + 10].tolist()
        assert sum(counts) == N
        assert_uniform(counts)


@both_windows
def test_sample_has_two_relevant_symbols_at_every_length(window: Window) -> None:
    for length in range(TemporalOrder.shortest_length, 130):
        assert ((draw(window, 100, length).inputs < 2).sum(0) == 2).all()


@both_windows
def test_sample_draws_classes_and_distractors_evenly(window: Window) -> None:
    batch = draw(window, N, 30)
    assert_uniform(batch.targets.flatten().bincount(minlength=4).tolist())
    assert_uniform(batch.inputs.flatten().bincount(minlength=6)[2:].tolist())


@both_windows
def test_sample_names_classes_by_first_and_second_symbol(window: Window) -> None:
    batch = draw(window, 40, 25)
    for sequence, target in zip(batch.inputs.T.tolist(), batch.targets[0].tolist(), strict=True):
        word = "".join("AB"[code] for code in sequence if code < 2)
        assert ["AA", "AB", "BA", "BB"][target] == word


@both_windows
def test_min_lag_is_eight_tenths_of_the_length_or_more(window: Window) -> None:
    task = TemporalOrder(window=window)
    assert task.min_lag(100) == 80
    assert all(10 * task.min_lag(length) >= 8 * length for length in range(task.shortest_length, 1000))


def test_shortest_length_is_the_least_that_allows_that_lag() -> None:
    too_short = TemporalOrder.shortest_length - 1
    # The first symbol cannot stand before step 0.
    assert 10 * (too_short - 1) < 8 * too_short


def test_loss_is_the_cross_entropy_of_each_member() -> None:
    batch = draw("pascanu2013_code", 11, 20)
    outputs = torch.randn(3, 1, 11, 4, generator=Generator().manual_seed(0))
    expected = torch.stack([cross_entropy(output[0], batch.targets[0]) for output in outputs])
    torch.testing.assert_close(TemporalOrder().loss(batch, outputs), expected)


def test_loss_is_ln_4_where_nothing_is_preferred() -> None:
    batch = draw("pascanu2013_code", 11, 20)
    assert TemporalOrder().loss(batch, torch.zeros(1, 1, 11, 4)).item() == pytest.approx(math.log(4))


def test_failed_is_a_wrong_arg_max() -> None:
    batch = Batch(inputs=torch.zeros(5, 4, dtype=torch.int64), targets=torch.tensor([[0, 1, 2, 3]]))
    outputs = torch.tensor([[0.1, 0, 0, 0], [5, 4.9, 0, 0], [-9, -9, -8, -9], [0, 0, 0, math.inf]])
    assert TemporalOrder().failed(batch, outputs[None, None]).tolist() == [[False, True, False, False]]
