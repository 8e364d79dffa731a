"""The points of a grid: every combination of the values that a study file names."""

from __future__ import annotations

from collections.abc import Mapping

from study.dimension import bounds_or_values
from study.errors import must
from study.hyperparameter import HYPERPARAMETERS
from study.plan import Domain, Interval, Parameter


def grid_points(cell: str, space: Mapping[str, Domain]) -> list[dict[str, Parameter]]:
    """The points of a space of choices and fixed values, in the order in which the choices are written.

    A point names what applies at it and nothing else, so that no two points are the same network.

    Raises:
        ValueError: where an interval applies.
    """
    points: list[dict[str, Parameter]] = [{}]
    for name, rule in HYPERPARAMETERS.items():
        extended = []
        for point in points:
            if not rule.applies(cell, point):
                extended.append(point)
                continue
            domain = space[name]
            loose = isinstance(domain, Interval)
            must(not loose, "sampler grid needs choices or fixed values", f"{name} of the cell {cell} is an interval")
            extended += [point | {name: value} for value in bounds_or_values(domain)]
        points = extended
    return points
