"""Random permutation against its paper's text and code."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.random_permutation import RandomPermutation
from tasks.task import Batch
from tasks_tests.task_book import draws

N = 20_000


def draw(length: int, n_sequences: int = N) -> Batch:
    return RandomPermutation(variant="pascanu2013_text").sample(draws(n_sequences), length)


def test_sample_has_one_of_two_symbols_first_and_last_and_the_others_between() -> None:
    for length in (2, 3, 60):
        batch = draw(length, 300)
        strings = torch.cat((batch.inputs, batch.targets[-1:]))
        assert torch.equal(strings[0], strings[-1])
        assert (strings[0] < 2).all()
        assert (strings[1:-1] >= 2).all()
        assert (strings < 100).all()


def test_sample_draws_symbols_evenly_and_apart() -> None:
    codes = draw(4).inputs
    # Six standard errors of a binomial count.
    assert abs(int(codes[0].sum()) - N / 2) < 6 * math.sqrt(N / 4)
    for step in codes[1:]:
        counts = step.bincount(minlength=100)[2:].double()
        assert (counts - N / 98).abs().max() < 6 * math.sqrt(N / 98)
    # Neighbours are equal as often as chance has it: repeated symbols are allowed.
    assert abs(int((codes[1] == codes[2]).sum()) - N / 98) < 6 * math.sqrt(N / 98)


def test_sample_asks_for_every_next_symbol_in_the_text_and_the_last_in_the_code() -> None:
    text = draw(30, 8)
    code = RandomPermutation(variant="pascanu2013_code").sample(draws(8), 30)
    assert torch.equal(text.inputs, code.inputs)
    assert torch.equal(text.targets[:-1], text.inputs[1:])
    assert torch.equal(text.targets[-1:], code.targets)


def test_failed_is_a_wrong_last_symbol() -> None:
    task = RandomPermutation(variant="pascanu2013_text")
    batch = draw(30, 8)
    right = task.oracle(batch).unsqueeze(0)
    only_last = torch.zeros_like(right)
    only_last[:, -1] = right[:, -1]
    assert not task.failed(batch, only_last).any()
    only_last[:, -1] = right[:, -1].roll(1, dims=-1)
    assert task.failed(batch, only_last).all()


def test_loss_of_the_oracle_is_ln_98_for_each_random_symbol() -> None:
    task = RandomPermutation(variant="pascanu2013_text")
    batch = draw(10, 50)
    assert task.loss(batch, task.oracle(batch).unsqueeze(0)).item() == pytest.approx(0.9 * math.log(98))
    code = RandomPermutation()
    batch = code.sample(draws(50), 10)
    assert code.loss(batch, code.oracle(batch).unsqueeze(0)).item() == 0
