"""What docs/fast_dropout.md says in words: what was measured is computed from the tables below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.table import Section

Row = dict[str, str]

GROWING = 2.0
"""Spectral radius from which on the rectifiers' states grow without bound."""

TEXT = """# Fast dropout: moments and the implied regulariser

Fast dropout (Wang & Manning 2013; Bayer et al. 2013) carries mean and variance of every unit through the network
instead of drawing masks. Here both are held against drawn masks, in double precision and with fixed seeds.

- One step: means are off by {one_mean} of the standard deviations that masks cause, those of the plain network by
  {one_plain}; variances are {one_variance} times the sampled ones. What is left is that sums of 50 terms are not quite
  Gaussian.
- 50 steps at a spectral radius of 1.2: means are off by {new_mean_50}, {new_ratio} times what they are after 10;
  variances are {new_variance_10} times the sampled ones after 10 steps, {new_variance_50} times after 50. Old noise
  fades before the dependence of units can build up much.
- The assumption of independence hurts where noise does not fade. Rectifiers at a radius of 2 or more grow without
  bound: their means are off by {grown_mean_10} after 10 steps and by {grown_mean_50} after 50, those of the plain
  network by {grown_plain_10} and {grown_plain_50}.
- One mask for all steps, at a radius of 1.2, makes errors of means {held_ratio_10} times as large after 10 steps,
  {held_ratio_50} times after 50. Rectifiers' variances are then {held_variance_10} times the sampled ones after 10
  steps, {held_variance_50} times after 50; where rectifiers grow, the sampled ones rest on a few masks.
- The implied regulariser R has the gradient that finite differences say. Against drawn masks that gradient has
  cosines of {cosine}, and R may be off by a multiple, or in its sign: an output adds up units with masks in common,
  and their covariances, which fast dropout leaves out, need not be small beside their variances.
"""


def summary(one_step: Section, new: Section, held: Section, radii: Section, regulariser: Section) -> str:
    """The page's head, for moments after one step, along sequences with new masks and one mask, and R."""
    one, news, helds = _rows(one_step), _rows(new), _rows(held)
    rectifiers = [row for row in helds if row["units"] == "rectifier"]
    grown = [r for r in _rows(radii) if r["units"] == "rectifier" and float(r["spectral radius"]) >= GROWING]
    new_10, new_50, held_10, held_50 = (_at(rows, "mean", step) for rows in (news, helds) for step in (1, 2))
    return TEXT.format(
        one_mean=_range(_at(one, "mean", 0), 3),
        one_plain=_range(_at(one, "mean, plain", 0), 3),
        one_variance=_range(_at(one, "variance", 0), 2),
        new_mean_50=_range(new_50, 3),
        new_ratio=_range(_ratios(new_50, new_10), 1),
        new_variance_10=_range(_at(news, "variance", 1), 2),
        new_variance_50=_range(_at(news, "variance", 2), 2),
        grown_mean_10=_range(_at(grown, "mean", 0), 2),
        grown_mean_50=_range(_at(grown, "mean", 1), 2),
        grown_plain_10=_range(_at(grown, "mean, plain", 0), 2),
        grown_plain_50=_range(_at(grown, "mean, plain", 1), 2),
        held_ratio_10=_range(_ratios(held_10, new_10), 1),
        held_ratio_50=_range(_ratios(held_50, new_50), 1),
        held_variance_10=_range(_at(rectifiers, "variance", 1), 2),
        held_variance_50=_range(_at(rectifiers, "variance", 2), 2),
        cosine=_range(_at(_rows(regulariser), "cosine", 0), 2),
    )


def _rows(section: Section) -> list[Row]:
    """The rows, by column."""
    return [dict(zip(section.columns, row, strict=True)) for row in section.rows]


def _at(rows: Iterable[Row], column: str, step: int) -> list[float]:
    """One of the numbers in each cell of a column."""
    return [float(row[column].split(" / ")[step]) for row in rows]


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _range(values: Sequence[float], n_digits: int) -> str:
    return f"{min(values):.{n_digits}f} to {max(values):.{n_digits}f}"
