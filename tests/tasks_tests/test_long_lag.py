"""Tasks 2a and 2b of Hochreiter & Schmidhuber 1997 against the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.long_lag import LongLag, Variant
from tasks_tests.task_book import draws

N = 20_000
both_variants = pytest.mark.parametrize("variant", ["hochreiter1997_2a", "hochreiter1997_2b"])


def strings(variant: Variant, n_symbols: int, n_sequences: int, length: int) -> Tensor:
    task = LongLag(variant=variant, n_symbols=n_symbols)
    batch = task.sample(draws(n_sequences), length)
    assert torch.equal(batch.inputs[1:], batch.targets[:-1])
    return torch.cat((batch.inputs, batch.targets[-1:]))


@pytest.mark.parametrize("p", [4, 10, 100])
def test_sample_draws_the_two_strings_of_2a_where_the_length_is_p(p: int) -> None:
    x, y, between = 0, 1, list(range(2, p + 1))
    found = {tuple(string) for string in strings("hochreiter1997_2a", p, 100, p).T.tolist()}
    assert found == {(x, *between, x), (y, *between, y)}


def test_sample_counts_up_to_the_same_symbol_in_2a_at_every_length() -> None:
    for length in (2, 5, 20, 55):
        middle = strings("hochreiter1997_2a", 10, 3, length)[1:-1, 0]
        assert middle[-1] == 10
        # The nine symbols 2 ... 10 follow each other in a circle.
        assert ((middle[1:] - middle[:-1]) % 9 == 1).all()


def test_sample_draws_what_lies_between_evenly_and_apart_in_2b() -> None:
    codes = strings("hochreiter1997_2b", 10, N, 5)
    assert torch.equal(codes[0], codes[-1])
    for step in codes[1:-1]:
        counts = step.bincount(minlength=11).double()
        assert (counts[:2] == 0).all()
        # Six standard errors of a binomial count.
        assert (counts[2:] - N / 9).abs().max() < 6 * math.sqrt(N / 9)
    assert abs(int((codes[1] == codes[2]).sum()) - N / 9) < 6 * math.sqrt(N / 9)


@both_variants
def test_sample_draws_first_symbols_evenly(variant: Variant) -> None:
    # Six standard errors of a binomial count.
    assert abs(int(strings(variant, 5, N, 5)[0].sum()) - N / 2) < 6 * math.sqrt(N / 4)


@both_variants
def test_sizes_are_the_papers(variant: Variant) -> None:
    # Networks for p = 100 have 101 inputs and outputs; the last of 101 symbols is predicted when the 100th is seen.
    task = LongLag(variant=variant)
    assert (task.n_in, task.n_out) == (101, 101)
    assert task.min_lag(100) == 99


@both_variants
def test_failed_is_a_unit_off_by_a_quarter(variant: Variant) -> None:
    task = LongLag(variant=variant, n_symbols=6)
    batch = task.sample(draws(1), 12)
    for step in range(12):
        for error, expected in ((0.24, False), (0.26, True)):
            outputs = task.oracle(batch).unsqueeze(0)
            right = int(batch.targets[step, 0])
            outputs[0, step, 0, right] = math.log((1 - error) / error)
            # Of 2b only the end of a sequence counts.
            counts = variant == "hochreiter1997_2a" or step == 11
            assert bool(task.failed(batch, outputs)) == (expected and counts)
            outputs = task.oracle(batch).unsqueeze(0)
            outputs[0, step, 0, (right + 1) % 7] = math.log(error / (1 - error))
            assert bool(task.failed(batch, outputs)) == (expected and counts)


def test_loss_of_the_oracle_is_that_of_random_symbols_in_2b() -> None:
    task = LongLag(variant="hochreiter1997_2b", n_symbols=6)
    batch = task.sample(draws(30), 10)
    # One of five units should be 1 and is 1/5, four should be 0 and are 1/5, at nine of ten steps.
    expected = 0.9 * (0.8**2 + 4 * 0.2**2) / 2
    assert task.loss(batch, task.oracle(batch).unsqueeze(0)).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n_symbols", "message"),
    [
        (2, "^n_symbols >= 3 must hold, but got n_symbols=2$"),
        (9.5, "^n_symbols must be a whole number, but got n_symbols=9.5$"),
    ],
)
def test_constructor_raises_when_there_are_too_few_symbols(n_symbols: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LongLag(n_symbols=n_symbols)
