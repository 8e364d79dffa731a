"""The figure of a study: what is drawn, read back from the axes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.outcome import Loss, Outcome, Rung, Status
from study.tracking.entry import ModelAnswer
from study.tracking.figure import COLOURS, answer_figure

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


def test_answer_figure_counts_steps_back_in_whole_numbers() -> None:
    # matplotlib's own choice for 18 steps is 0, 2.5, 5, ...
    flow = tuple(math.exp(-0.1 * k) for k in range(1, 19))
    best = replace(OUTCOME, error_flow=flow)
    figure = answer_figure([ModelAnswer(model="tanh", lengths=(16,), best=best)], "demo")
    _drawn(figure)
    ticks = list(figure.axes[1].get_xticks())
    assert len(ticks) >= 3
    assert ticks == [round(tick) for tick in ticks]


def test_answer_figure_of_a_data_set_shows_contexts() -> None:
    losses = tuple(replace(rung, loss=Loss(mean=1.0, standard_error=0.1)) for rung in OUTCOME.rungs)
    figure = answer_figure([ModelAnswer(model="lstm", lengths=(16,), best=replace(OUTCOME, rungs=losses))], "demo")
    assert figure.axes[0].get_xlabel().startswith("effective context length (time steps)")


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
    code = "import sys, study.tracking.trial_figure; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
