"""The numbers and files that an outcome leaves in MLflow."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.outcome import Metric, Outcome, Status
from study.tracking.entry import ModelAnswer, TrialClosed
from study.tracking.server import WEIGHTS


def stamped(values: Mapping[str, float], update: int, time_ms: int) -> list[Metric]:
    """The values as metrics measured at one time; what is not a number is left out."""
    return [
        Metric(name=name, value=value, update=update, time_ms=time_ms)
        for name, value in values.items()
        if not math.isnan(value)
    ]


def final_metrics(outcome: Outcome) -> dict[str, float]:
    """What is known only at the end: the objective, and the error at each length with its Wilson 95 % interval.

    On a data set also the loss at each context with its interval, in nats, and in bits. ``confirmed`` stands for the
    longest solved length, or the full context, on sequences that nothing was chosen by.
    """
    values = {
        "dependency_length": float(outcome.dependency_length),
        "objective": outcome.value,
        "skill": outcome.skill,
        "diverged": float(outcome.diverged),
        "n_updates": float(outcome.n_updates),
    }
    rungs = {str(rung.length): rung for rung in outcome.rungs}
    if outcome.confirmed is not None:
        rungs["confirmed"] = outcome.confirmed
    for name, rung in rungs.items():
        low, high = rung.interval
        values |= {f"error/{name}": rung.error, f"error/{name}/low": low, f"error/{name}/high": high}
        if rung.loss is not None:
            low, high = rung.loss.interval
            values |= {f"loss/{name}": rung.loss.mean, f"loss/{name}/low": low, f"loss/{name}/high": high}
            values[f"bits/{name}"] = rung.loss.bits
    return values


def artifacts(entry: TrialClosed) -> dict[str, bytes]:
    """The files that a trial leaves; weights that are gone were uploaded before this process's predecessor died."""
    outcome = entry.outcome
    texts: dict[str, str] = {}
    if outcome.reason:
        texts["reason.txt"] = outcome.reason
    if outcome.error_flow:
        parts = {name: _finite(curve) for name, curve in outcome.part_flow.items()}
        texts["error_flow.json"] = json.dumps({"g": _finite(outcome.error_flow), "parts": parts})
    if outcome.lyapunov:
        texts["lyapunov.json"] = json.dumps({"nats_per_step": _finite(outcome.lyapunov)})
    if outcome.status is not Status.FAILED:
        from study.tracking.trial_figure import contexts_svg, error_flow_svg, ladder_svg

        title = str(entry.key)
        if outcome.error_flow:
            texts["error_flow.svg"] = error_flow_svg(outcome, title)
        if outcome.by_loss:
            texts["contexts.svg"] = contexts_svg(outcome, title)
        elif outcome.rungs:
            texts["ladder.svg"] = ladder_svg(outcome, title)
    files = {name: text.encode() for name, text in texts.items()}
    if entry.weights is not None and Path(entry.weights).exists():
        files[WEIGHTS] = Path(entry.weights).read_bytes()
    return files


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinity: it becomes null, as does what is no number."""
    return [value if math.isfinite(value) else None for value in values]


def drawn_answer(answers: Sequence[ModelAnswer], study: str) -> bytes:
    """The figure that answers who learned how long a dependency, as PNG."""
    from study.tracking.figure import answer_figure

    image = io.BytesIO()
    answer_figure(answers, study).savefig(image, format="png")
    return image.getvalue()
