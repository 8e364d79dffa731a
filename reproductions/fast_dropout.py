"""``python -m reproductions.fast_dropout``: fast dropout's moments and regulariser, into docs/fast_dropout.md."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from benchmarks.table import Section
from models.activation import ACTIVATIONS
from reproductions.fast_dropout_summary import summary
from reproductions.moments import Errors, after_one_step, along_a_sequence
from reproductions.regulariser import TASKS, Comparison, compare

RATES = (0.1, 0.2, 0.5, 0.8)
"""Probabilities of dropping a unit."""

STEPS = (1, 10, 50)
"""Recurrent steps after which moments are compared."""

RADII = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Spectral radii of recurrent weights."""

COMMAND = "python -m reproductions.fast_dropout"

REPORT = Path(__file__).parents[1] / "docs" / "fast_dropout.md"

MOMENTS = ("mean", "mean, plain", "variance", "correlation")
"""Columns of ``_cells``."""


def one_step() -> Section:
    """Moments of units behind one layer that is dropped out."""
    return Section(
        title="One step: 50 units, 200 000 masks",
        command=COMMAND,
        columns=("units", "p_drop", *MOMENTS),
        rows=[
            (name, f"{p_drop:g}", *_cells([after_one_step(name, p_drop)])) for name in ACTIVATIONS for p_drop in RATES
        ],
        notes="*mean*: root mean square over units of the error of the mean, in standard deviations that the masks "
        "cause. *plain*: the same of a network whose weights are multiplied by p_keep and that knows no variance. "
        "*variance*: fast dropout's over the sampled one, averaged over units. *correlation*: mean absolute "
        "correlation of two sampled units, which fast dropout takes for 0. The sampled means have an error of 0.002 "
        "themselves.",
    )


def many_steps(*, held: bool) -> Section:
    """Moments of recurrent units after 1, 10 and 50 steps."""

    def row(name: str, p_drop: float) -> tuple[str, ...]:
        errors = along_a_sequence(name, p_drop, held=held)
        return name, f"{p_drop:g}", *_cells([errors[t - 1] for t in STEPS])

    masks = "one mask for all steps" if held else "new masks at every step"
    return Section(
        title=f"1, 10 and 50 recurrent steps, {masks}: 50 units, 10 000 sequences of masks",
        command=COMMAND,
        columns=("units", "p_drop", *MOMENTS),
        rows=[row(name, p_drop) for name in ACTIVATIONS for p_drop in RATES],
        notes="As above, after 1 / 10 / 50 steps. The state before the first step is zero: no mask acts on it. "
        "Recurrent weights are Gaussian with a spectral radius of 1.2. The sampled means have an error of 0.01."
        + (" Fast dropout takes the masks of different steps as independent, which these are not." if held else ""),
    )


def radii() -> Section:
    """Moments after 10 and 50 steps, from weak to strong recurrence."""

    def row(name: str, radius: float, p_drop: float) -> tuple[str, ...]:
        new, one = (
            [along_a_sequence(name, p_drop, held=held, radius=radius)[t - 1] for t in STEPS[1:]]
            for held in (False, True)
        )
        mean, _, variance, _ = _cells(one)
        return name, f"{radius:g}", f"{p_drop:g}", *_cells(new), mean, variance

    return Section(
        title="Where the assumption of independence starts to hurt: 10 and 50 steps",
        command=COMMAND,
        columns=("units", "spectral radius", "p_drop", *MOMENTS, "mean, one mask", "variance, one mask"),
        rows=[row(name, radius, p_drop) for name in ("tanh", "rectifier") for radius in RADII for p_drop in (0.2, 0.5)],
        notes="As above, after 10 / 50 steps, with new masks at every step, and in the last two columns with one mask "
        "for all steps.",
    )


def _cells(errors: list[Errors]) -> tuple[str, ...]:
    """Columns of a table of moments; a cell holds several numbers."""

    def joined(values: list[float], digits: int) -> str:
        return " / ".join("-" if math.isnan(value) else f"{value:.{digits}f}" for value in values)

    return (
        joined([one.mean for one in errors], 3),
        joined([one.plain_mean for one in errors], 3),
        joined([one.variance_ratio for one in errors], 2),
        joined([one.correlation for one in errors], 2),
    )


def regulariser() -> Section:
    """What the noise adds to the loss, and its gradient."""
    rows = [
        _regulariser_row(name, p_drop, task, compare(name, p_drop, task))
        for task in TASKS
        for name in ACTIVATIONS
        for p_drop in RATES
    ]
    return Section(
        title="The implied regulariser: 30 units, 10 steps, all weight groups dropped out",
        command=COMMAND,
        columns=("task", "units", "p_drop", "R", "R sampled", "numerical gradient", "cosine", "length"),
        rows=rows,
        notes="R is the loss on average over the noise minus the loss of the plain network, whose weights are "
        "multiplied by p_keep. Temporal order has a softmax, adding a linear output and a squared error. *sampled*: by "
        "80 000 masks, with the standard error. *numerical gradient*: largest relative error of R's derivative along a "
        "random direction of each parameter, against central differences. *cosine*, *length*: of R's gradient and that "
        "of the sampled R, the cosine of their angle and the ratio of their lengths.",
    )


def _regulariser_row(name: str, p_drop: float, task: str, found: Comparison) -> tuple[str, ...]:
    return (
        task,
        name,
        f"{p_drop:g}",
        f"{found.value:.4f}",
        f"{found.sampled:.4f} +- {found.sampled_error:.4f}",
        f"{found.numerical_error:.0e}",
        f"{found.cosine:.3f}",
        f"{found.length_ratio:.2f}",
    )


def main() -> int:
    """Measure all of it, print it and keep it."""
    sections = (one_step(), many_steps(held=False), many_steps(held=True), radii(), regulariser())
    text = "\n".join([summary(*sections), *(section.markdown() for section in sections)])
    sys.stdout.write(text)
    REPORT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
