"""Figures: what is drawn, read back from the axes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.outcome import Outcome, Rung, Status
from study.tracking.entry import ModelAnswer
from study.tracking.figure import COLOURS, answer_figure, error_flow_figure, ladder_figure

OUTCOME = Outcome(
    status=Status.COMPLETE,
    dependency_length=16,
    skill=0.4,
    diverged=False,
    n_updates=1000,
    rungs=(
        Rung(length=10, lag=8, n_failed=0, n_sequences=10_000),
        Rung(length=20, lag=16, n_failed=99, n_sequences=10_000),
        Rung(length=30, lag=24, n_failed=100, n_sequences=10_000),
    ),
    error_flow=tuple(math.exp(-0.5 * k) for k in range(1, 41)),
    metrics={"gradient/horizon": 14.0, "gradient/half_life": math.log(2) / 0.5},
)


def _labels(axes: Axes) -> list[str]:
    return list(axes.get_legend_handles_labels()[1])


def _drawn(figure: Figure) -> None:
    """Rendering is where matplotlib finds fault with labels and scales."""
    figure.canvas.draw()


def test_error_flow_figure_shows_curve_and_horizon() -> None:
    figure = error_flow_figure(OUTCOME, "demo/lstm/3")
    _drawn(figure)
    (axes,) = figure.axes
    curve, horizon = axes.lines[:2]
    assert list(curve.get_xdata()) == list(range(1, 41))
    assert tuple(curve.get_ydata()) == OUTCOME.error_flow
    assert list(horizon.get_xdata()) == [14, 14]
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "k, steps before the answer"
    assert axes.get_ylabel() == "error signal g(k)"
    assert _labels(axes) == ["g(k)", "horizon: 14 steps (g(k) ≥ g(1)/1000)", "half-life: 1.39 steps"]
    assert "demo/lstm/3" in figure.get_suptitle()


def test_error_flow_figure_leaves_gaps_where_nothing_can_be_drawn() -> None:
    outcome = replace(
        OUTCOME, error_flow=(1.0, 0.0, math.inf, math.nan, 1e-300), metrics={"gradient/half_life": math.inf}
    )
    figure = error_flow_figure(outcome, "t")
    _drawn(figure)
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, True, True, False]
    assert figure.axes[0].get_ylim()[0] > 1e-14
    assert _labels(figure.axes[0]) == ["g(k)", "does not decay"]


def test_error_flow_figure_says_so_when_nothing_was_measured() -> None:
    figure = error_flow_figure(replace(OUTCOME, error_flow=(), metrics={}), "t")
    _drawn(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["none measured"]


def test_ladder_figure_shows_errors_with_intervals_and_the_line() -> None:
    figure = ladder_figure(OUTCOME, "demo/lstm/3")
    _drawn(figure)
    (axes,) = figure.axes
    solved, unsolved = axes.containers
    assert list(solved.lines[0].get_xdata()) == [10, 20]
    assert list(unsolved.lines[0].get_xdata()) == [30]
    assert list(solved.lines[0].get_ydata()) == [0.0, 0.0099]
    for container, rungs in ((solved, OUTCOME.rungs[:2]), (unsolved, OUTCOME.rungs[2:])):
        segments = container.lines[2][0].get_segments()
        # Bars are stored as centre and half-lengths, which costs a rounding.
        assert np.allclose([segment[:, 1] for segment in segments], [rung.interval for rung in rungs], atol=1e-15)
    assert any(list(line.get_ydata()) == [0.01, 0.01] for line in axes.lines)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "20", "30"]
    assert axes.get_xlabel() == "sequence length T (time steps)"
    assert axes.get_ylabel() == "failed sequences, with 95 % interval"
    assert "16 steps" in figure.get_suptitle()


def test_ladder_figure_labels_at_most_ten_lengths() -> None:
    rungs = tuple(Rung(length=10 * n, lag=n, n_failed=0, n_sequences=100) for n in range(1, 36))
    figure = ladder_figure(replace(OUTCOME, rungs=rungs), "t")
    _drawn(figure)
    assert len(figure.axes[0].get_xticks()) <= 10


def _answer(model: str, lengths: tuple[int, ...], rate: float) -> ModelAnswer:
    flow = tuple(math.exp(rate * k) for k in range(1, 31))
    return ModelAnswer(
        model=model, lengths=lengths, best=replace(OUTCOME, dependency_length=max(lengths), error_flow=flow)
    )


def test_answer_figure_shows_best_and_all_trials_of_each_model() -> None:
    answers = [_answer("tanh", (0, 8, 40), -0.1), _answer("lstm", (0, 160), -0.01)]
    figure = answer_figure(answers, "demo")
    _drawn(figure)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == [40, 160]
    assert [tuple(line.get_xdata()) for line in left.lines] == [(0, 8, 40), (0, 160)]
    assert [text.get_text() for text in left.texts] == ["40", "160"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["tanh", "lstm"]
    assert left.yaxis_inverted()
    assert left.get_xlabel().startswith("dependency length learned (time steps)")
    assert _labels(right) == ["tanh", "lstm"]
    assert [tuple(line.get_ydata()) for line in right.lines] == [answer.best.error_flow for answer in answers]
    assert right.get_yscale() == "log"


def test_answer_figure_tells_many_models_apart() -> None:
    figure = answer_figure([_answer(f"model {n}", (n,), -0.1) for n in range(2 * len(COLOURS))], "demo")
    _drawn(figure)
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines}
    assert len(looks) == 2 * len(COLOURS)


def test_answer_figure_can_be_drawn_when_nothing_was_learned() -> None:
    nothing = replace(OUTCOME, dependency_length=0, error_flow=(), rungs=(), diverged=True)
    figure = answer_figure([ModelAnswer(model="tanh", lengths=(0, 0), best=nothing)], "demo")
    _drawn(figure)
    assert figure.axes[0].texts[0].get_text() == "0"
    assert figure.axes[1].get_legend() is None


def test_figures_leave_pyplot_alone() -> None:
    # pyplot keeps every figure and chooses a display; in a process of its own, where no other test has imported it.
    code = "import sys, study.tracking.figure; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
