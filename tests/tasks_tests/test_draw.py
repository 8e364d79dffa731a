"""What problems draw from: normal numbers and places, against their definitions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks import Draws
from tasks_tests.task_book import draws


def test_normal_numbers_have_the_shares_of_the_normal_distribution() -> None:
    n = 40_000
    drawn = draws(n).normal(5).double()
    assert drawn.shape == (5, n)
    for edge in (-2.0, -1.0, 0.0, 0.5, 1.5):
        share, expected = float((drawn < edge).double().mean()), (1 + math.erf(edge / math.sqrt(2))) / 2
        # Four standard errors.
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / drawn.numel())


class Ends(Draws):
    """The least and the largest integer there is."""

    n_sequences = 2

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.tensor([low, high - 1]).expand(*shape, 2)

    def uniform(self, *shape: int) -> Tensor:
        raise NotImplementedError


def test_normal_numbers_are_finite_at_both_ends() -> None:
    least, largest = Ends().normal(1)[0].tolist()
    assert least == -largest
    assert 6.1 < largest < 6.3


def test_places_stay_below_their_ends() -> None:
    for end in (1, 2, 10**12 + 1, 2**53):
        assert Ends().below(torch.tensor(end)).tolist() == [0, end - 1]


def test_places_below_ends_of_any_size_are_equally_likely() -> None:
    n = 60_000
    ends = torch.tensor([1, 3, 10**12]).repeat(n // 3)
    places = draws(n).below(ends)
    assert bool(((places >= 0) & (places < ends)).all())
    ones, threes, many = places.view(-1, 3).unbind(1)
    assert bool((ones == 0).all())
    shares = torch.bincount(threes, minlength=3) / len(threes)
    # Four standard errors.
    assert bool(((shares - 1 / 3).abs() < 4 * math.sqrt(2 / 9 / len(threes))).all())
    assert abs(float(many.double().mean()) / 10**12 - 0.5) < 4 / math.sqrt(12 * len(many))
    # Of places that are a million times as many as are drawn hardly any comes twice.
    assert len(many.unique()) == len(many)
