"""The error flow of shared and untied networks, before and after training, in one figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reproductions.sharing import CELLS, Case, Run
from study.tracking.figure import COLOURS, DEEPEST, FAINT, INK, name_flow_axes
from study.training.probe import Curve


def flow_figure(found: Mapping[tuple[Case, str], Sequence[Run]]) -> Figure:
    """A panel for each case, three in a row: ``g(k) / g(1)``, the median over networks and the range of all.

    Args:
        found: networks by case and kind.
    """
    cases = list(dict.fromkeys(case for case, _ in found))
    n_rows = math.ceil(len(cases) / 3)
    figure = Figure(figsize=(11.0, 0.6 + 2.6 * n_rows), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_rows, 3, squeeze=False, sharex=True).flat
    for axes, case in zip(panels, cases, strict=False):
        _draw(axes, {kind: found[case, kind] for kind in CELLS if (case, kind) in found})
        axes.set_title(f"{case.task}, {case.units}, {case.optimiser}, T = {case.length}", fontsize=10, color=INK)
        axes.label_outer()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, edgecolor="none")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure without the version of what drew it, which would change the file for nothing."""
    figure.savefig(path, metadata={"Software": None})


def _draw(axes: Axes, runs: Mapping[str, Sequence[Run]]) -> None:
    for colour, (kind, some) in zip(COLOURS, runs.items(), strict=False):
        # Split chains start as the shared networks.
        if kind != "split":
            start = relative([run.start.error_flow for run in some])
            _line(axes, start, colour, ":", f"{kind} weights, at initialisation")
        after = relative([run.outcome.error_flow for run in some])
        _line(axes, after, colour, "-", f"{kind} weights, after training")
        low, high = ([end(column) for column in after] for end in (min, max))
        axes.fill_between(range(1, len(after) + 1), low, high, color=colour, alpha=0.15, linewidth=0)
    name_flow_axes(axes)
    axes.set_ylabel("g(k) / g(1)")
    axes.set_ylim(DEEPEST, 1e3)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Axes, columns: Sequence[Sequence[float]], colour: str, style: str, label: str) -> None:
    axes.plot(range(1, len(columns) + 1), list(map(median, columns)), style, color=colour, linewidth=2, label=label)


def relative(curves: Sequence[Curve]) -> list[list[float]]:
    """At each step back what is left of the networks' g(1); of a network whose g(1) is not positive nothing."""
    sound = [curve for curve in curves if curve and 0 < curve[0] < math.inf]
    return [[g / curve[0] for g, curve in zip(column, sound, strict=True)] for column in zip(*sound, strict=True)]
