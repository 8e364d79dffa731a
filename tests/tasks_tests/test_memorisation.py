"""Noiseless memorisation against its paper's text and code."""

from __future__ import annotations

import math

import pytest

from tasks.memorisation import Memorisation, NValues
from tasks_tests.task_book import draws

both = pytest.mark.parametrize(("n_values", "n_items"), [(2, 5), (5, 10)])


@both
def test_sample_is_laid_out_as_in_the_code(n_values: NValues, n_items: int) -> None:
    for n_blank in (1, 2, 50):
        length = n_blank + 2 * n_items
        batch = Memorisation(n_values=n_values).sample(draws(40), length)
        blank, go = n_values, n_values + 1
        for sequence, answers in zip(batch.inputs.T.tolist(), batch.targets.T.tolist(), strict=True):
            items = sequence[:n_items]
            assert set(items) <= set(range(n_values))
            # The trigger stands at step T + n_pos, T being the code's length.
            assert sequence[n_items:] == [blank] * n_blank + [go] + [blank] * (n_items - 1)
            assert answers == [blank] * (n_blank + n_items) + items


@both
def test_sample_draws_all_strings_evenly(n_values: NValues, n_items: int) -> None:
    n = 20_000
    items = Memorisation(n_values=n_values).sample(draws(n), 30).inputs[:n_items].double()
    # Values, and pairs of neighbours, are uniform: six standard errors of a binomial count.
    for codes, kinds in ((items, n_values), (items[1:] * n_values + items[:-1], n_values**2)):
        for step in codes:
            counts = step.long().bincount(minlength=kinds).double()
            bound = 6 * math.sqrt(n / kinds * (1 - 1 / kinds))
            assert (counts - n / kinds).abs().max() < bound


@both
def test_sizes_are_those_of_the_code(n_values: NValues, n_items: int) -> None:
    task = Memorisation(n_values=n_values)
    assert (task.n_in, task.n_out) == (n_values + 2, n_values + 1)
    assert task.shortest_length == 2 * n_items + 1
    # T blanks and the string itself lie between a symbol and its recall.
    assert task.min_lag(50 + 2 * n_items) == 50 + n_items


def test_chance_error_leaves_one_string_of_32() -> None:
    assert Memorisation(n_values=2).chance_error() == pytest.approx(31 / 32)


def test_failed_is_any_wrong_step_in_the_blank_as_well() -> None:
    task = Memorisation()
    batch = task.sample(draws(1), 20)
    for step in range(20):
        outputs = task.oracle(batch).unsqueeze(0)
        outputs[0, step] = outputs[0, step].roll(1, dims=-1)
        assert task.failed(batch, outputs).all()
