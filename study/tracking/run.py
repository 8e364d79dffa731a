"""A run of MLflow's, and what goes to it together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from study.outcome import Metric

if TYPE_CHECKING:
    from mlflow import entities

LONGEST_TEXT = 5000
"""Characters of a parameter or tag; MLflow refuses parameters of more than 6000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlace:
    """A run, as far as it is needed to write to it; what MLflow tells of one is ten times as much memory."""

    run_id: str
    artifact_uri: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run is from now on, in MLflow's words, and when it ended if it has."""

    status: str
    end_ms: int | None = None


RUNNING = Standing(status="RUNNING")


@dataclass(kw_only=True)
class Batch:
    """What goes to one run together: its artifacts first, its standing last."""

    files: dict[str, bytes] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    standing: Standing | None = None

    def entities(self) -> tuple[list[entities.Metric], list[entities.Param], list[entities.RunTag]]:
        """Metrics, parameters and tags as MLflow has them, the newest metrics first."""
        from mlflow.entities import Metric, Param, RunTag

        return (
            [Metric(metric.name, metric.value, metric.time_ms, metric.update) for metric in reversed(self.metrics)],
            [Param(name, str(value)[:LONGEST_TEXT]) for name, value in self.parameters.items()],
            [RunTag(name, value[:LONGEST_TEXT]) for name, value in self.tags.items()],
        )
