"""Figures of studies, drawn by matplotlib without a display, and the look that all figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from study.outcome import Outcome
from study.tracking.entry import ModelAnswer

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart; the yellow, too pale for lines, is a grey here."""

STYLES = ("-", "--", "-.", ":")
"""One for each round through the colours."""

INK, FAINT = "#333333", "#C8C8C8"

DEEPEST = 1e-12
"""Error flow relative to its maximum at which a figure ends: below lie only rounding errors."""


PANELS_INCHES, LEAST_INCHES = 7.5, 11.0
"""Width of both panels of an answer and the room between them, and the least of it all, which a heading may need."""

LEGEND = "best trial of"


def answer_figure(answers: Sequence[ModelAnswer], title: str) -> Figure:
    """Who learned how long a dependency, and how far back the error signal of each model's best trial reaches.

    Args:
        answers: one of each model; the order from top to bottom.
        title: above the figure.
    """
    height = max(4.2, 1.6 + 0.62 * len(answers))
    figure, (left, right) = empty_figure(n_panels=2, height=height)
    heading = f"Who learned how long a dependency? {title}"
    figure.suptitle(heading, x=0.5, y=1 - 0.12 / height, va="top", fontsize=12, color=INK, fontweight="bold")
    # Names stand left of the one panel and in the legend of the other, where it hides no curve.
    n_letters = max(len(answer.model) for answer in answers)
    before, behind = 0.35 + 0.1 * n_letters, 0.7 + 0.09 * max(n_letters, len(LEGEND))
    width = max(LEAST_INCHES, before + PANELS_INCHES + behind)
    figure.set_figwidth(width)
    figure.subplots_adjust(left=before / width, right=1 - behind / width, wspace=0.25)
    longest = max(max(answer.lengths) for answer in answers)
    for row, answer in enumerate(answers):
        colour, best = COLOURS[row % len(COLOURS)], answer.best.dependency_length
        left.barh(row - 0.14, best, height=0.36, color=colour)
        left.annotate(str(best), (best, row - 0.14), (5, 0), textcoords="offset points", va="center", color=INK)
        # The golden ratio spreads any number of dots evenly, so that equal trials do not hide one another.
        spread = [row + 0.24 + 0.2 * ((n * 0.618034) % 1 - 0.5) for n in range(len(answer.lengths))]
        left.plot(answer.lengths, spread, "o", color=colour, markersize=4, alpha=0.55, markeredgewidth=0)
        style = STYLES[row // len(COLOURS) % len(STYLES)]
        _draw_flow(right, answer.best, colour, style, answer.model)
    left.set_yticks(range(len(answers)), [answer.model for answer in answers])
    left.set_ylim(len(answers) - 0.45, -0.55)
    left.set_xlim(-0.02 * max(longest, 1), 1.12 * max(longest, 1))
    left.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    left.grid(visible=False, axis="y")
    left.tick_params(axis="y", length=0)
    learned = "effective context length" if answers[0].best.by_loss else "dependency length learned"
    left.set_xlabel(f"{learned} (time steps)\nbar: best trial, dots: all trials")
    name_flow_axes(right)
    _limit_flow_axes(right, [answer.best for answer in answers])
    if right.get_legend_handles_labels()[0]:
        place = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0.0}
        right.legend(title=LEGEND, alignment="left", frameon=False, **place)
    return figure


def empty_figure(*, n_panels: int, height: float = 4.2, dpi: int = 110) -> tuple[Figure, list[Axes]]:
    """A figure of one look without anything in it; the canvas makes it drawable without the global state of pyplot."""
    width = 6.4 if n_panels == 1 else 11.0
    figure = Figure(figsize=(width, height), dpi=dpi)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, n_panels, squeeze=False)[0])
    figure.subplots_adjust(
        left=0.85 / width,
        right=0.97,
        bottom=(0.6 if n_panels == 1 else 0.75) / height,
        top=1 - 0.55 / height,
        wspace=0.2,
    )
    for axes in panels:
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10, colors=INK)
        axes.xaxis.label.set(size=11, color=INK)
        axes.yaxis.label.set(size=11, color=INK)
    return figure, panels


def name_flow_axes(axes: Axes) -> None:
    """Label and scale the axes that error flow is drawn on."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_power))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axes.set_xlabel("k, steps before the answer")
    axes.set_ylabel("error signal g(k)")


def _limit_flow_axes(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """End the axes where only rounding errors lie."""
    shown = [value for outcome in outcomes for value in outcome.error_flow if 0 < value < math.inf]
    if shown:
        # Three decades at least, so that a signal that keeps its size looks like one.
        top, bottom = max(shown), min(1e-3 * max(shown), *shown)
        axes.set_ylim(max(bottom, DEEPEST * top) / 3, 3 * top)
        axes.set_xlim(0, 1.03 * max(len(outcome.error_flow) for outcome in outcomes))
    else:
        axes.text(0.5, 0.5, "none measured", transform=axes.transAxes, ha="center", color=INK)


def _power(value: float, _: int | None) -> str:
    """A power of ten in plain characters: laying out a formula takes longer than the rest of the figure."""
    return "10" + str(round(math.log10(value))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _draw_flow(axes: Axes, outcome: Outcome, colour: str, style: str, label: str) -> None:
    """Draw g(k); where it is zero or infinite there is a gap."""
    curve = [value if 0 < value < math.inf else math.nan for value in outcome.error_flow]
    if not curve:
        return
    axes.plot(range(1, len(curve) + 1), curve, style, color=colour, linewidth=2, label=label)
