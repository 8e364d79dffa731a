"""Copy with delimiter against its paper's text and code."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.copy_delimiter import CopyDelimiter
from tasks_tests.task_book import draws

BLANK, DELIMITER = 8, 9


def test_sample_is_laid_out_as_in_the_paper() -> None:
    for lag in (1, 2, 100):
        batch = CopyDelimiter().sample(draws(40), lag + 20)
        for sequence, answers in zip(batch.inputs.T.tolist(), batch.targets.T.tolist(), strict=True):
            symbols = sequence[:10]
            assert set(symbols) <= set(range(8))
            assert sequence[10:] == [BLANK] * (lag - 1) + [DELIMITER] + [BLANK] * 10
            assert answers == [BLANK] * (lag + 10) + symbols


def test_sample_draws_eight_symbols_evenly() -> None:
    n = 20_000
    for step in CopyDelimiter().sample(draws(n), 21).inputs[:10]:
        counts = step.bincount(minlength=8).double()
        # Six standard errors of a binomial count.
        assert (counts - n / 8).abs().max() < 6 * math.sqrt(n / 8 * 7 / 8)


@pytest.mark.parametrize("lag", [100, 500])
def test_loss_without_memory_is_the_papers_baseline(lag: int) -> None:
    task = CopyDelimiter()
    batch = task.sample(draws(7), lag + 20)
    outputs = torch.zeros(1, lag + 20, 7, 9)
    outputs[:, :-10, :, BLANK] = 100.0
    outputs[:, -10:, :, BLANK] = -100.0
    assert task.loss(batch, outputs).item() == pytest.approx(10 * math.log(8) / (lag + 20))


def test_min_lag_counts_the_symbols_and_the_papers_lag() -> None:
    assert CopyDelimiter().min_lag(100 + 20) == 100 + 10


def test_failed_is_any_wrong_step() -> None:
    task = CopyDelimiter()
    batch = task.sample(draws(1), 25)
    for step in range(25):
        outputs = task.oracle(batch).unsqueeze(0)
        outputs[0, step] = outputs[0, step].roll(1, dims=-1)
        assert task.failed(batch, outputs).all()
