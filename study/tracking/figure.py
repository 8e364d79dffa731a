"""Figures, drawn without a display: pure functions from outcomes to matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from study.outcome import Outcome, Rung
from study.tracking.entry import ModelAnswer

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#000000")
"""Okabe and Ito's colours, which the colour-blind can tell apart; the yellow, too pale for lines, is a grey here."""

STYLES = ("-", "--", "-.", ":")
"""One for each round through the colours."""

INK, FAINT = "#333333", "#C8C8C8"

SOLVED = 0.01
"""Error below which a length is solved."""

DEEPEST = 1e-12
"""Error flow relative to its maximum at which a figure ends: below lie only rounding errors."""


def error_flow_figure(outcome: Outcome, title: str) -> Figure:
    """The error signal g(k) at k steps before the answer, on a logarithmic scale, with its horizon.

    Args:
        outcome: of a trial; without error flow the axes stay empty.
        title: above the figure.
    """
    figure, (axes,) = _figure(f"Error flow of {title}", n_panels=1)
    _set_flow_axes(axes, [outcome])
    _draw_flow(axes, outcome, COLOURS[0], "-", "g(k)")
    horizon, half_life = (outcome.metrics.get(f"gradient/{name}", math.nan) for name in ("horizon", "half_life"))
    if horizon > 0:
        label = f"horizon: {horizon:.0f} steps (g(k) ≥ g(1)/1000)"
        axes.axvline(horizon, color=COLOURS[1], linestyle="--", linewidth=1.5, label=label)
    if half_life > 0:
        text = f"half-life: {half_life:.3g} steps" if half_life < math.inf else "does not decay"
        axes.plot([], [], linestyle="none", label=text)
    _legend(axes, "upper right")
    return figure


def ladder_figure(outcome: Outcome, title: str) -> Figure:
    """The error at each sequence length with its Wilson 95 % interval, and the line below which a length is solved.

    Args:
        outcome: of a trial, with at least one rung.
        title: above the figure.
    """
    steps = f"{outcome.dependency_length} steps" if outcome.dependency_length else "none"
    figure, (axes,) = _figure(f"Ladder of {title}: dependency learned {steps}", n_panels=1)
    axes.axhspan(-SOLVED, SOLVED, color=COLOURS[2], alpha=0.12, linewidth=0)
    axes.axhline(SOLVED, color=COLOURS[2], linewidth=1.5)
    for solved, face, label in ((True, COLOURS[0], "solved: error below 1 %"), (False, "white", "not solved")):
        rungs = [rung for rung in outcome.rungs if rung.solved is solved]
        if rungs:
            _draw_rungs(axes, rungs, face, label)
    axes.set_xscale("log")
    lengths = [rung.length for rung in outcome.rungs]
    shown = lengths[:: -(-len(lengths) // 10)]
    axes.set_xticks(shown, [str(length) for length in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    # Linear below the line, so that an error of nothing has its place, logarithmic above it.
    axes.set_yscale("symlog", linthresh=SOLVED, linscale=0.6)
    axes.set_ylim(-0.08 * SOLVED, 1.3)
    axes.set_yticks([0, SOLVED, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    axes.set_xlabel("sequence length T (time steps)")
    axes.set_ylabel("failed sequences, with 95 % interval")
    _legend(axes, "upper left")
    return figure


def answer_figure(answers: Sequence[ModelAnswer], title: str) -> Figure:
    """Who learned how long a dependency, and how far back the error signal of each model's best trial reaches.

    Args:
        answers: one of each model; the order from top to bottom.
        title: above the figure.
    """
    heading = f"Who learned how long a dependency? {title}"
    figure, (left, right) = _figure(heading, n_panels=2, height=max(4.2, 1.6 + 0.62 * len(answers)))
    figure.subplots_adjust(left=min(0.3, 0.03 + 0.009 * max(len(answer.model) for answer in answers)))
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
    left.set_xlabel("dependency length learned (time steps)\nbar: best trial, dots: all trials")
    _set_flow_axes(right, [answer.best for answer in answers])
    _legend(right, "best", title="best trial of")
    return figure


def _figure(title: str, *, n_panels: int, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """An empty figure of one look; the canvas makes it drawable without the global state of pyplot."""
    width = 6.4 if n_panels == 1 else 11.0
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, n_panels, squeeze=False)[0])
    figure.subplots_adjust(
        left=0.85 / width,
        right=0.97,
        bottom=(0.6 if n_panels == 1 else 0.75) / height,
        top=1 - 0.55 / height,
        wspace=0.2,
    )
    figure.suptitle(title, x=0.5, y=1 - 0.12 / height, va="top", fontsize=12, color=INK, fontweight="bold")
    for axes in panels:
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10, colors=INK)
        axes.xaxis.label.set(size=11, color=INK)
        axes.yaxis.label.set(size=11, color=INK)
    return figure, panels


def _set_flow_axes(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    """Name the axes of error flow, and end them where only rounding errors lie."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_power))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("k, steps before the answer")
    axes.set_ylabel("error signal g(k)")
    shown = [value for outcome in outcomes for value in outcome.error_flow if 0 < value < math.inf]
    if shown:
        # Three decades at least, so that a signal that keeps its size looks like one; room above for the legend.
        top, bottom = max(shown), min(1e-3 * max(shown), *shown)
        axes.set_ylim(max(bottom, DEEPEST * top) / 3, 3 * top * (top / max(bottom, DEEPEST * top)) ** 0.25)
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


def _draw_rungs(axes: Axes, rungs: Sequence[Rung], face: str, label: str) -> None:
    errors = [rung.error for rung in rungs]
    below = [max(0.0, rung.error - rung.interval[0]) for rung in rungs]
    above = [max(0.0, rung.interval[1] - rung.error) for rung in rungs]
    axes.errorbar(
        [rung.length for rung in rungs],
        errors,
        yerr=[below, above],
        fmt="o",
        color=COLOURS[0],
        markerfacecolor=face,
        markersize=7,
        capsize=4,
        clip_on=False,
        label=label,
    )


def _legend(axes: Axes, place: str, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, title=title, edgecolor="none", framealpha=0.85)
