"""A grid: which points it has, and which spaces make none."""

from __future__ import annotations

import pytest

from study.errors import UserError
from study.grid import grid_points
from study.study_file import parse_spec
from study_tests.spec_book import active

GRID = """
name: replicates
task: {name: latch}
ladder: [20]
training: {lengths: 20}
search: {sampler: grid, n_trials: 6}
models: {tanh: {cell: elman_tanh}}
space:
  init: sparse
  init_scale: 1
  optimiser: {choices: [sgd, adam]}
  learning_rate: 0.1
  momentum: {choices: [0.5, 0.9]}
  dropout: none
  omega_weight: 0.0
"""


def test_a_grid_needs_no_value_of_what_has_no_effect_and_repeats_no_network() -> None:
    spec = parse_spec(GRID)
    points = grid_points("elman_tanh", spec.plan("cpu").model("tanh").space)
    # Gradient descent has no momentum, so the two that are named make one point of it.
    assert [(point["optimiser"], point.get("momentum")) for point in points] == [
        ("sgd", None),
        ("adam", 0.5),
        ("adam", 0.9),
    ]
    for point in points:
        assert set(point) == active("elman_tanh", point)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("space.momentum={low: 0.5, high: 0.9}", r"grid needs choices or fixed values, but momentum of the cell elman"),
        ("search.n_trials=4", r"n_trials must be a multiple of the 3 points of the grid of model tanh, but got 4"),
    ],
)
def test_a_grid_is_refused_in_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_spec(GRID, [setting])


def test_an_interval_that_applies_nowhere_does_not_disturb_a_grid() -> None:
    spec = parse_spec(GRID, ["space.optimiser=sgd", "space.momentum={low: 0.5, high: 0.9}"])
    assert len(grid_points("elman_tanh", spec.plan("cpu").model("tanh").space)) == 1
