"""Digits: the parts are the whole, each image in one of them, and the orders are what they say."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from tasks.dataset import SPLITS, Split
from tasks.digits import Digits, Order
from tasks_tests.task_book import draws


def loaded(order: Order = "rows") -> Digits:
    digits = Digits(order=order)
    digits.load()
    return digits


def images(digits: Digits, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels ``[N, 64]`` and classes ``[N]``."""
    batch = digits.excerpt(split, torch.arange(len(digits.histories(split))), 64)
    return batch.inputs[..., 0].T, batch.targets[0]


def test_parts_hold_every_image_once() -> None:
    digits, bunch = loaded(), load_digits()
    parts = {split: images(digits, split) for split in SPLITS}
    assert [len(classes) for _, classes in parts.values()] == [1197, 300, 300]
    given = sorted(
        [*(16 * pixels).int().tolist(), int(c)] for part in parts.values() for pixels, c in zip(*part, strict=True)
    )
    assert given == sorted([*map(int, pixels), int(c)] for pixels, c in zip(bunch.data, bunch.target, strict=True))
    # A part is no stretch of the original order, in which one writer's digits stand together.
    for split in SPLITS:
        assert set(parts[split][1].tolist()) == set(range(10))


def test_pixels_come_row_by_row_or_in_one_order_for_all() -> None:
    rows, _ = images(loaded(), "test")
    permuted, _ = images(loaded("permuted"), "test")
    order = torch.randperm(64, generator=torch.Generator().manual_seed(2))
    assert torch.equal(permuted, rows[:, order])
    # Images are dark at their left and right edge: pixels 0 and 7 of each row.
    assert rows.view(-1, 8, 8)[:, :, [0, 7]].mean() < 0.1 * rows.mean()


def test_sample_draws_training_images_only() -> None:
    digits = loaded()
    known = {tuple(pixels) for pixels in images(digits, "train")[0].tolist()}
    drawn = digits.sample(draws(200), 64)
    assert {tuple(pixels) for pixels in drawn.inputs[..., 0].T.tolist()} <= known


def test_an_order_must_be_known() -> None:
    with pytest.raises(ValueError, match=r"^order must be one of rows, permuted, but got order='columns'$"):
        Digits(order="columns")  # type: ignore[arg-type]
