"""What is said of raw outputs against torch's own losses, and against the rules as written."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from tasks.readout import LogisticRanked, LogisticWithin, Softmax, certain


def draw(n_answers: int = 3) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    return torch.randint(0, 4, (n_answers, 11), generator=generator), torch.randn(
        3, n_answers, 11, 4, generator=generator
    )


def test_softmax_loss_is_the_cross_entropy_of_each_member() -> None:
    targets, outputs = draw()
    expected = torch.stack([cross_entropy(output.flatten(0, 1), targets.flatten()) for output in outputs])
    torch.testing.assert_close(Softmax().loss(targets, outputs), expected)


def test_softmax_loss_is_ln_4_where_nothing_is_preferred() -> None:
    targets, outputs = draw()
    assert Softmax().loss(targets, torch.zeros_like(outputs))[0].item() == pytest.approx(math.log(4))


def test_logistic_loss_is_half_the_squared_error_summed_over_units() -> None:
    targets, outputs = draw()
    wanted = one_hot(targets, 4).float()
    # The mean over four units is a quarter of their sum.
    expected = torch.stack([4 * mse_loss(output.sigmoid(), wanted) / 2 for output in outputs])
    torch.testing.assert_close(LogisticWithin(0.1).loss(targets, outputs), expected)
    torch.testing.assert_close(LogisticRanked().loss(wanted, outputs), expected)


def test_logistic_ranked_is_wrong_where_a_legal_unit_is_not_above_all_others() -> None:
    legal = torch.tensor([[0.5, 0.5, 0.0, 0.0]]).expand(1, 5, 4)
    outputs = torch.tensor(
        [[2.0, 1.0, 0.9, -1.0], [1.0, 2.0, 0.9, 0.9], [2.0, 0.9, 1.0, 0.0], [2.0, 1.0, 1.0, 0.0], [2.0, 1.0, 3.0, 0.0]]
    )
    assert LogisticRanked().wrong(legal, outputs[None, None]).tolist() == [[[False, False, True, True, True]]]


def test_certain_leaves_no_doubt_in_float32() -> None:
    targets, _ = draw()
    sure = certain(targets, 4)
    assert torch.equal(sure.softmax(-1), one_hot(targets, 4).float())
    torch.testing.assert_close(sure.sigmoid(), one_hot(targets, 4).float(), rtol=0, atol=1e-40)
