"""Figures of single trials, as SVG. Trials come by the thousand and share their axes: matplotlib draws those once."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import cast

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Transform

from study.outcome import ENOUGH, Outcome
from study.tracking.figure import COLOURS, DEEPEST, INK, empty_figure, name_flow_axes

Point = tuple[float, float]

SOLVED = 0.01
"""Error below which a length is solved."""

PART_COLOURS = COLOURS[2:]
"""Of the parts of an error flow; the first two are its own and its horizon's."""

_FONT = "font-family: 'DejaVu Sans', sans-serif"


def error_flow_svg(outcome: Outcome, title: str) -> str:
    """The error signal g(k) at k steps before the answer, on a logarithmic scale, with its horizon and its parts.

    Args:
        outcome: of a trial; without error flow the axes stay empty.
        title: above the figure.
    """
    curve, parts = outcome.error_flow, outcome.part_flow
    drawable = [value for one in (curve, *parts.values()) for value in one if 0 < value < math.inf]
    # Decades in threes: a signal that keeps its size looks like one, and few axes serve all trials.
    top = 3 * math.ceil((math.log10(max(drawable, default=1.0)) + 0.1) / 3)
    bottom = 3 * math.floor(math.log10(max(min(drawable, default=1.0), DEEPEST * max(drawable, default=1.0))) / 3)
    frame = _flow_frame(max(len(curve), 1), min(bottom, top - 3), top, tuple(parts))
    marks = [
        frame.line(points, colour, width=1)
        for colour, part in zip(PART_COLOURS, parts.values(), strict=False)
        for points in _unbroken(part)
    ]
    marks += [frame.line(points) for points in _unbroken(curve)]
    notes = [] if drawable else ["none measured"]
    horizon, half_life = (outcome.metrics.get(f"gradient/{name}", math.nan) for name in ("horizon", "half_life"))
    if half_life > 0:
        notes.append(f"half-life: {half_life:.3g} steps" if half_life < math.inf else "does not decay")
    if horizon > 0:
        marks.append(frame.line([(horizon, 10.0 ** min(bottom, top - 3)), (horizon, 10.0**top)], COLOURS[1], "6 4"))
        notes.append(f"horizon, dashed: {horizon:.0f} steps (g(k) ≥ g(1)/1000)")
    return frame.filled(f"Error flow of {title}", "; ".join(notes), marks)


def ladder_svg(outcome: Outcome, title: str) -> str:
    """The error at each sequence length with its Wilson 95 % interval, and the line below which a length is solved.

    Args:
        outcome: of a trial, with at least one rung.
        title: above the figure.
    """
    steps = f"{outcome.dependency_length} steps" if outcome.dependency_length else "none"
    frame = _ladder_frame(tuple(rung.length for rung in outcome.rungs))
    marks = []
    for rung in outcome.rungs:
        low, high = rung.interval
        marks += [frame.bar(rung.length, low, high), frame.dot((rung.length, rung.error), filled=rung.solved)]
    return frame.filled(f"Ladder of {title}", f"dependency learned: {steps}", marks)


def contexts_svg(outcome: Outcome, title: str) -> str:
    """The loss at each context with its 95 % interval, and the line below which a context is as good as the full one.

    Args:
        outcome: of a trial on a data set; context 0 is the best constant answer. An infinite loss is not drawn.
        title: above the figure.
    """
    losses = {rung.length: rung.loss for rung in outcome.rungs if rung.loss is not None}
    highest = max((loss.mean for loss in losses.values() if loss.mean < math.inf), default=1.0)
    # One, two or five times a power of ten: few axes serve all trials.
    decade = 10.0 ** math.floor(math.log10(highest))
    top = next(step * decade for step in (1, 2, 5, 10) if 1.05 * highest <= step * decade or step == 10)
    frame = _context_frame(tuple(losses), top)
    enough = ENOUGH * losses[max(losses)].mean
    marks = []
    if enough < math.inf:
        marks.append(frame.line([(0, enough), (max(losses), enough)], COLOURS[2], "6 4"))
    for context, loss in losses.items():
        if loss.mean < math.inf:
            low, high = loss.interval
            marks += [frame.bar(context, low, high), frame.dot((context, loss.mean), filled=loss.mean <= enough)]
    note = f"effective context: {outcome.dependency_length} steps; dashed: 1.01 times the loss at full context"
    return frame.filled(f"Contexts of {title}", note, marks)


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """Axes that matplotlib has drawn: all of the SVG but its last tag, where data lie, its width and height in points.

    The axes themselves, of which there may be dozens, would take a hundred times as much memory.
    """

    svg: str
    transform: Transform
    size: Point

    def filled(self, title: str, note: str, marks: Sequence[str]) -> str:
        """A whole figure: the axes with a title, a note below it and marks inside."""
        x = self.size[0] / 2
        text = f'<text x="{x}" text-anchor="middle" fill="{INK}" style="{_FONT}"'
        return (
            f'{self.svg}<g clip-path="url(#panel)">{"".join(marks)}</g>'
            f'{text} y="18" font-size="12" font-weight="bold">{escape(title)}</text>'
            f'{text} y="33" font-size="10">{escape(note)}</text></svg>\n'
        )

    def line(self, points: Sequence[Point], colour: str = COLOURS[0], dashes: str = "none", *, width: float = 2) -> str:
        """A line through points of data."""
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in self.places(points))
        look = f'fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"'
        return f'<polyline points="{path}" {look}/>'

    def dot(self, point: Point, *, filled: bool) -> str:
        """A full or an empty dot."""
        ((x, y),) = self.places([point])
        return (
            f'<circle cx="{x:.2f}" cy="{y:.2f}" r="3.5" stroke="{COLOURS[0]}" '
            f'fill="{COLOURS[0] if filled else "white"}"/>'
        )

    def bar(self, at: float, low: float, high: float) -> str:
        """An interval as a vertical bar with caps."""
        (x, bottom), (_, top) = self.places([(at, low), (at, high)])
        caps = "".join(f"M{x - 4:.2f} {y:.2f}h8" for y in (bottom, top))
        return f'<path d="M{x:.2f} {bottom:.2f}V{top:.2f}{caps}" stroke="{COLOURS[0]}" stroke-width="1.5"/>'

    def places(self, points: Sequence[Point]) -> list[Point]:
        """Where points of data lie in the drawing."""
        return [(x, self.size[1] - y) for x, y in self.transform.transform(points).tolist()]


@lru_cache(maxsize=64)
def _flow_frame(n_steps: int, bottom: int, top: int, parts: tuple[str, ...]) -> _Frame:
    """Axes from 10^bottom to 10^top over ``n_steps`` steps, and which line is which where there are parts."""
    figure, (axes,) = empty_figure(n_panels=1, dpi=72)
    name_flow_axes(axes)
    axes.set_ylim(10.0**bottom, 10.0**top)
    axes.set_xlim(0, 1.03 * n_steps)
    if parts:
        axes.plot([], [], color=COLOURS[0], linewidth=2, label="all gates")
        for label, colour in zip(parts, PART_COLOURS, strict=False):
            axes.plot([], [], color=colour, linewidth=1, label=label)
        axes.legend(loc="lower left", ncols=2, edgecolor="none", framealpha=0.85)
    return _drawn(figure, axes)


@lru_cache(maxsize=16)
def _ladder_frame(lengths: tuple[int, ...]) -> _Frame:
    """Axes for the errors at these lengths, with the line and what the dots mean."""
    figure, (axes,) = empty_figure(n_panels=1, dpi=72)
    axes.axhspan(-SOLVED, SOLVED, color=COLOURS[2], alpha=0.12, linewidth=0)
    axes.axhline(SOLVED, color=COLOURS[2], linewidth=1.5)
    for face, label in ((COLOURS[0], "solved: error below 1 %"), ("white", "not solved")):
        axes.plot([], [], "o", color=COLOURS[0], markerfacecolor=face, markersize=7, label=label)
    axes.set_xscale("log")
    _tick_lengths(axes, lengths)
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    # Linear below the line, so that an error of nothing has its place, logarithmic above it.
    axes.set_yscale("symlog", linthresh=SOLVED, linscale=0.6)
    axes.set_ylim(-0.2 * SOLVED, 1.3)
    axes.set_yticks([0, SOLVED, 0.1, 1], ["0", "1 %", "10 %", "100 %"])
    axes.set_xlabel("sequence length T (time steps)")
    axes.set_ylabel("failed sequences, with 95 % interval")
    axes.legend(loc="upper left", edgecolor="none", framealpha=0.85)
    return _drawn(figure, axes)


@lru_cache(maxsize=16)
def _context_frame(contexts: tuple[int, ...], top: float) -> _Frame:
    """Axes for losses up to ``top`` at these contexts."""
    figure, (axes,) = empty_figure(n_panels=1, dpi=72)
    for face, label in ((COLOURS[0], "at most 1 % above full context"), ("white", "more")):
        axes.plot([], [], "o", color=COLOURS[0], markerfacecolor=face, markersize=7, label=label)
    # Linear below one step, so that no context at all has its place.
    axes.set_xscale("symlog", linthresh=1)
    _tick_lengths(axes, contexts)
    axes.set_xlim(-0.25, contexts[-1] * 1.25)
    axes.set_ylim(0, top)
    axes.set_xlabel("context (time steps); 0 is the best constant answer")
    axes.set_ylabel("held-out loss (nats), with 95 % interval")
    axes.legend(loc="lower left", edgecolor="none", framealpha=0.85)
    return _drawn(figure, axes)


def _tick_lengths(axes: Axes, lengths: tuple[int, ...]) -> None:
    """Name ten of the lengths at most."""
    shown = lengths[:: -(-len(lengths) // 10)]
    axes.set_xticks(shown, [str(length) for length in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def _drawn(figure: Figure, axes: Axes) -> _Frame:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    left, bottom, width, height = axes.bbox.bounds
    top = figure.bbox.height - bottom - height
    panel = f'<clipPath id="panel"><rect x="{left}" y="{top}" width="{width}" height="{height}"/></clipPath>'
    return _Frame(
        svg=text.getvalue().rpartition("</svg>")[0] + panel,
        transform=cast(Transform, axes.transData.frozen()),
        size=(figure.bbox.width, figure.bbox.height),
    )


def _unbroken(curve: Sequence[float]) -> Iterator[list[Point]]:
    """The parts of g(1), g(2), ... that a logarithmic axis has a place for."""
    part: list[Point] = []
    for k, value in enumerate(curve, start=1):
        if 0 < value < math.inf:
            part.append((k, value))
        elif part:
            yield part
            part = []
    if part:
        yield part
