"""Task 2c of Hochreiter & Schmidhuber 1997 against the paper."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.task import Batch
from tasks.very_long_lag import VeryLongLag
from tasks_tests.task_book import draws

X, Y, START, TRIGGER = range(4)


def test_sample_is_start_symbol_distractors_and_trigger() -> None:
    for length in (3, 4, 50):
        batch = VeryLongLag(n_distractors=7).sample(draws(60), length)
        assert (batch.inputs[0] == START).all()
        assert ((batch.inputs[1] == X) | (batch.inputs[1] == Y)).all()
        assert torch.equal(batch.inputs[1:2], batch.targets)
        assert (batch.inputs[2:-1] >= 4).all()
        assert (batch.inputs[-1] == TRIGGER).all()


def test_sample_draws_symbols_and_distractors_evenly() -> None:
    n = 20_000
    inputs = VeryLongLag(n_distractors=7).sample(draws(n), 6).inputs
    # Six standard errors of a binomial count.
    assert abs(int(inputs[1].sum()) - n / 2) < 6 * math.sqrt(n / 4)
    for step in inputs[2:-1]:
        counts = step.bincount(minlength=11)[4:].double()
        assert (counts - n / 7).abs().max() < 6 * math.sqrt(n / 7)


@pytest.mark.parametrize("q", [50, 1000])
def test_min_lag_is_the_papers_at_its_shortest(q: int) -> None:
    # Sequences of q + 4 symbols, the last of which is not seen; the second is stored for q + 1 steps.
    assert VeryLongLag().min_lag(q + 3) == q + 1


def test_sizes_are_the_papers() -> None:
    task = VeryLongLag(n_distractors=50)
    assert (task.n_in, task.n_out) == (54, 2)


def test_failed_is_either_unit_off_by_a_fifth() -> None:
    batch = Batch(inputs=torch.zeros(5, 4, dtype=torch.int64), targets=torch.tensor([[X, X, X, Y]]))
    units = torch.tensor([[0.81, 0.19], [0.79, 0.0], [1.0, 0.21], [0.81, 0.19]])
    failed = VeryLongLag().failed(batch, units.logit()[None, None])
    assert failed.tolist() == [[False, True, True, True]]


def test_constructor_raises_when_there_is_no_distractor() -> None:
    with pytest.raises(ValueError, match=r"^n_distractors >= 1 must hold, but got n_distractors=0$"):
        VeryLongLag(n_distractors=0)
