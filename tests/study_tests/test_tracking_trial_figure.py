"""Figures of trials: what is drawn, read back from the SVG by means of the ticks that matplotlib has put there."""

from __future__ import annotations

import gc
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.axes import Axes

from study.outcome import Loss, Outcome, Rung, TrialKey
from study.tracking.artifact import artifacts, final_metrics
from study.tracking.entry import TrialClosed
from study.tracking.figure import COLOURS
from study.tracking.trial_figure import PART_COLOURS, contexts_svg, error_flow_svg, ladder_svg
from study_tests.test_tracking_figure import OUTCOME

POINT = 0.02
"""Coordinates are written with two digits after the point; matplotlib's own with six."""


class Drawing:
    """An SVG figure as its reader sees it."""

    def __init__(self, text: str) -> None:
        self._root = ElementTree.fromstring(text)
        self.texts = [element.text or "" for element in self._all("text")]
        # Matplotlib defines a tick's mark once for each axis, the one along x first.
        marks: dict[str, list[tuple[float, float]]] = {}
        for element in self._all("use"):
            shape = element.get("{http://www.w3.org/1999/xlink}href", "")
            marks.setdefault(shape, []).append((float(element.get("x", "")), float(element.get("y", ""))))
        along_x, along_y = list(marks.values())[:2]
        self.ticks_x, self.ticks_y = [x for x, _ in along_x], [y for _, y in along_y]

    def _all(self, tag: str) -> list[ElementTree.Element]:
        return list(self._root.iter(f"{{http://www.w3.org/2000/svg}}{tag}"))

    def exponents(self) -> list[int]:
        """Of the powers of ten along the axis, from the bottom."""
        plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
        return [int(text[2:].translate(plain)) for text in self.texts if re.fullmatch("10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", text)]

    def lines(self, colour: str) -> list[list[tuple[float, float]]]:
        found = [element.get("points", "") for element in self._all("polyline") if element.get("stroke") == colour]
        return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in found]

    def dots(self) -> list[tuple[float, float, bool]]:
        return [
            (float(element.get("cx", "")), float(element.get("cy", "")), element.get("fill") != "white")
            for element in self._all("circle")
        ]

    def bars(self) -> list[tuple[float, float, float]]:
        """Place, lower and upper end of each interval."""
        found = [re.match(r"M([\d.]+) ([\d.]+)V([\d.]+)M", element.get("d", "")) for element in self._all("path")]
        return [(float(bar[1]), float(bar[2]), float(bar[3])) for bar in found if bar]


def test_error_flow_is_drawn_where_its_axes_say() -> None:
    drawing = Drawing(error_flow_svg(OUTCOME, "demo/lstm/3"))
    assert {"Error flow of demo/lstm/3", "k, steps before the answer", "error signal g(k)"} <= set(drawing.texts)
    (curve,) = drawing.lines(COLOURS[0])
    zero, five = drawing.ticks_x[:2]
    low, high = drawing.exponents()[:2]
    bottom, above = drawing.ticks_y[:2]
    for k, (x, y) in enumerate(curve, start=1):
        assert x == pytest.approx(zero + k * (five - zero) / 5, abs=POINT)
        exponent = low + (high - low) * (bottom - y) / (bottom - above)
        assert exponent == pytest.approx(math.log10(OUTCOME.error_flow[k - 1]), abs=POINT)
    ((first, last),) = drawing.lines(COLOURS[1])
    assert first[0] == last[0] == pytest.approx(zero + 14 * (five - zero) / 5, abs=POINT)
    assert "half-life: 1.39 steps; horizon, dashed: 14 steps (g(k) ≥ g(1)/1000)" in drawing.texts


def test_error_flow_has_gaps_where_nothing_can_be_drawn() -> None:
    outcome = replace(
        OUTCOME, error_flow=(1.0, 0.5, 0.0, math.inf, math.nan, 1e-300), metrics={"gradient/half_life": math.inf}
    )
    drawing = Drawing(error_flow_svg(outcome, "t"))
    assert [len(part) for part in drawing.lines(COLOURS[0])] == [2, 1]
    assert "does not decay" in drawing.texts
    # What lies below everything that can be told from rounding does not stretch the axes.
    assert min(drawing.exponents()) >= -13


def test_error_flow_shows_the_gates_and_names_them() -> None:
    names = ("input", "forget", "candidate", "output", "carousel")
    parts = {name: tuple(g / 2**n for g in OUTCOME.error_flow) for n, name in enumerate(names, start=1)}
    drawing = Drawing(error_flow_svg(replace(OUTCOME, part_flow=parts), "t"))
    assert {"all gates", *names} <= set(drawing.texts)
    (whole,) = drawing.lines(COLOURS[0])
    low, high = drawing.exponents()[:2]
    halving = math.log10(2) * (drawing.ticks_y[0] - drawing.ticks_y[1]) / (high - low)
    for n, colour in enumerate(PART_COLOURS[: len(names)], start=1):
        (curve,) = drawing.lines(colour)
        assert curve == [pytest.approx((x, y + n * halving), abs=2 * POINT) for x, y in whole]
    assert "all gates" not in Drawing(error_flow_svg(OUTCOME, "t")).texts


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_error_flow_fills_its_axes_whatever_its_size(scale: float) -> None:
    flow = tuple(scale * 0.5**k for k in range(1, 31))
    (curve,) = Drawing(error_flow_svg(replace(OUTCOME, error_flow=flow), "t")).lines(COLOURS[0])
    assert curve[0][1] < 39.6 + 60
    assert curve[-1][1] > 259.2 - 60


@pytest.mark.parametrize("flow", [(), (0.0, math.nan)])
def test_error_flow_says_so_when_nothing_was_measured(flow: tuple[float, ...]) -> None:
    drawing = Drawing(error_flow_svg(replace(OUTCOME, error_flow=flow, metrics={}), "t"))
    assert drawing.lines(COLOURS[0]) == []
    assert "none measured" in drawing.texts


def test_titles_may_hold_any_characters() -> None:
    assert "a<b>&c" in Drawing(error_flow_svg(OUTCOME, "a<b>&c")).texts[-2]


def test_ladder_is_drawn_where_its_axes_say() -> None:
    drawing = Drawing(ladder_svg(OUTCOME, "demo/lstm/3"))
    shown = set(drawing.texts)
    assert {"10", "20", "30", "0", "1 %", "10 %", "100 %", "dependency learned: 16 steps"} <= shown
    assert {"sequence length T (time steps)", "failed sequences, with 95 % interval"} <= shown
    nothing, line, tenth, _ = drawing.ticks_y
    for place, rung, (x, y, filled), (at, low, high) in zip(
        drawing.ticks_x, OUTCOME.rungs, drawing.dots(), drawing.bars(), strict=True
    ):
        assert x == at == pytest.approx(place, abs=POINT)
        assert filled is rung.solved

        def height(error: float) -> float:
            if error < 0.01:
                return nothing + (line - nothing) * error / 0.01
            return line + (tenth - line) * math.log10(error / 0.01)

        expected = (rung.error, *rung.interval)
        assert (y, low, high) == pytest.approx(tuple(map(height, expected)), abs=POINT)


def test_a_ladder_labels_at_most_ten_lengths() -> None:
    rungs = tuple(Rung(length=10 * n, lag=n, n_failed=0, n_sequences=100) for n in range(1, 36))
    drawing = Drawing(ladder_svg(replace(OUTCOME, rungs=rungs), "t"))
    assert len([text for text in drawing.texts if text.isdecimal() and text != "0"]) <= 10
    assert len(drawing.dots()) == 35


def on_data(losses: dict[int, float]) -> Outcome:
    rungs = tuple(
        Rung(length=at, lag=at, n_failed=1, n_sequences=9, loss=Loss(mean=mean, standard_error=0.05))
        for at, mean in losses.items()
    )
    return replace(OUTCOME, dependency_length=4, rungs=rungs)


def test_contexts_are_drawn_where_their_axes_say() -> None:
    losses = {0: 1.8, 1: 1.2, 4: 1.005, 10: 1.0}
    drawing = Drawing(contexts_svg(on_data(losses), "demo/lstm/3"))
    assert {"Contexts of demo/lstm/3", "0", "1", "4", "10"} <= set(drawing.texts)
    assert any(text.startswith("effective context: 4 steps") for text in drawing.texts)
    assert [filled for _, _, filled in drawing.dots()] == [False, False, True, True]
    # The axes end at 2, the next of 1, 2, 5, 10, ... above the highest loss.
    bottom, top = drawing.ticks_y[0], drawing.ticks_y[-1]
    for place, loss, (x, y, _), (at, low, high) in zip(
        drawing.ticks_x, losses.values(), drawing.dots(), drawing.bars(), strict=True
    ):
        assert x == at == pytest.approx(place, abs=POINT)
        heights = [bottom + (top - bottom) * value / 2 for value in (loss, loss - 0.098, loss + 0.098)]
        assert (y, low, high) == pytest.approx(heights, abs=POINT)
    ((first, last),) = drawing.lines(COLOURS[2])
    assert first[1] == last[1] == pytest.approx(bottom + (top - bottom) * 1.01 / 2, abs=POINT)


def test_contexts_of_a_network_that_diverged_show_the_constant_answer_alone() -> None:
    drawing = Drawing(contexts_svg(on_data({0: 1.8, 1: math.inf, 4: math.inf}), "t"))
    assert len(drawing.dots()) == 1
    assert drawing.lines(COLOURS[2]) == []


def test_a_trial_on_data_leaves_its_losses_as_metrics_and_as_a_figure() -> None:
    outcome = on_data({0: 1.8, 4: math.log(2)})
    outcome = replace(outcome, confirmed=outcome.rungs[-1])
    values = final_metrics(outcome)
    assert values["loss/0"] == 1.8
    assert (values["loss/4"], values["bits/4"]) == pytest.approx((math.log(2), 1))
    assert values["loss/confirmed/low"] < values["loss/confirmed"] < values["loss/confirmed/high"]
    assert values["objective"] == outcome.skill
    key = TrialKey(study="s", model="m", number=1)
    files = artifacts(TrialClosed(time_ms=0, key=key, outcome=outcome, weights=None))
    assert {name for name in files if name.endswith(".svg")} == {"contexts.svg", "error_flow.svg"}


def test_trials_with_the_same_axes_do_not_share_their_curves() -> None:
    first = error_flow_svg(OUTCOME, "first")
    second = error_flow_svg(replace(OUTCOME, error_flow=tuple(0.9 * g for g in OUTCOME.error_flow)), "second")
    assert Drawing(first).lines(COLOURS[0]) != Drawing(second).lines(COLOURS[0])
    assert "first" not in second
    assert error_flow_svg(OUTCOME, "first") == first


def test_error_flows_of_like_depth_share_their_axes() -> None:
    curves = [(0.5, 1e-3, lowest) for lowest in (2e-4, 2e-5, 2e-6)]
    ticks = [Drawing(error_flow_svg(replace(OUTCOME, error_flow=curve), "t")).exponents() for curve in curves]
    assert ticks[0] == ticks[1] == ticks[2]
    assert ticks[0][0] == -6


def test_axes_that_have_been_drawn_are_let_go() -> None:
    def n_axes() -> int:
        gc.collect()
        return sum(type(one) is Axes for one in gc.get_objects())

    # What other tests hold.
    before = n_axes()
    error_flow_svg(OUTCOME, "t")
    ladder_svg(OUTCOME, "t")
    assert n_axes() <= before
