"""The sections of a study file: what each key may hold. What must hold between them is the spec's business."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from study.errors import UserError, must, shown, unknown_name
from study.plan import Parameter
from tasks import DATASETS, TASKS, Problem
from tasks.dataset import read_file
from tasks.variant import variant_parameters

MAX_LENGTH = 100_000
"""Longest sequence, in time steps, that a study may ask for; beyond it a batch no longer fits a worker's memory."""


def _single(value: object) -> object:
    single = isinstance(value, int | float | str)
    must(single, "a word or a number is needed, and several are written {choices: [...]}", f"got {shown(value)}")
    return value


Value = Annotated[
    Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | float | str, BeforeValidator(_single)
]


def _whole(value: object) -> object:
    """Counts may be written as 1e4, which is no integer to YAML."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
PositiveInt = Annotated[Count, Field(ge=1)]
Length = Annotated[Count, Field(ge=1, le=MAX_LENGTH)]
Width = Annotated[Count, Field(ge=1, le=10_000)]
Seed = Annotated[Count, Field(ge=0, lt=2**63)]


def _no_bool(value: object) -> object:
    must(not isinstance(value, bool), "a number is needed", f"got {value!r}")
    return value


Number = Annotated[float, BeforeValidator(_no_bool)]
"""``true`` is no number."""


class Section(BaseModel):
    """Keys that are not known are refused, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSpec(Section):
    """Which task, and the parameters of its variant."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    def build(self) -> Problem:
        """The task itself, without its data; raises ValueError with a sentence if there is none such."""
        problems: dict[str, type[Problem]] = {**TASKS, **DATASETS}
        if self.name not in problems:
            raise ValueError(unknown_name("task", self.name, problems))
        problem = problems[self.name]
        for name, value in self.parameters.items():
            must(value is not None, f"task.{name} needs a value", "got nothing")
        try:
            return problem(**self.parameters)
        except TypeError:
            known = [
                f"{name} (must be given)" if one.required else name for name, one in variant_parameters(problem).items()
            ]
            given = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items()) or "none"
            raise ValueError(
                f"task {self.name} takes the parameters {', '.join(known) or 'none'}, but got {given}"
            ) from None

    def check_data(self) -> str:
        """Read the data that the task rests on; raises UserError if it cannot be had.

        Returns:
            SHA-256 of its files, or nothing where there are none.
        """
        if self.name not in DATASETS:
            return ""
        dataset = DATASETS[self.name](**self.parameters)
        try:
            dataset.load()
            digests = [hashlib.sha256(read_file(self.name, path)).hexdigest() for path in dataset.files()]
        except (ValueError, OSError) as error:
            raise UserError(str(error)) from None
        return " ".join(digests)


class RangeSpec(Section):
    """An interval to search."""

    low: Number
    high: Number
    log: Annotated[bool, Field(strict=True)] = False


class ChoicesSpec(Section):
    """A closed set to search."""

    choices: Annotated[list[Value], Field(min_length=1)]


def _kind(domain: object) -> str:
    """What a domain was meant to be, so that a wrong one is judged by its own rules and not by all three kinds'."""
    if isinstance(domain, RangeSpec | ChoicesSpec):
        return type(domain).__name__
    if isinstance(domain, dict):
        return "ChoicesSpec" if "choices" in domain else "RangeSpec"
    return "ValueSpec"


DomainSpec = Annotated[
    Annotated[RangeSpec, Tag("RangeSpec")]
    | Annotated[ChoicesSpec, Tag("ChoicesSpec")]
    | Annotated[Value, Tag("ValueSpec")],
    Discriminator(_kind),
]


class TrainingSpec(Section):
    """How every network is trained."""

    n_updates: PositiveInt = 4000
    batch_size: PositiveInt = 20
    lengths: Length | Annotated[list[Length], Field(min_length=2, max_length=2)] = [10, 100]
    batches: Literal["shared", "own"] = "shared"
    report_every: PositiveInt = 500
    evaluate_every: PositiveInt = 1000
    n_interim: Annotated[Count, Field(ge=100)] = 1000
    n_final: Annotated[Count, Field(ge=1000)] = 10_000


class HalvingSpec(Section):
    """When the worst members of a stack stop: after ``rungs`` updates the share ``keep`` goes on."""

    rungs: list[PositiveInt] = []
    keep: Annotated[Number, Field(gt=0, le=1)] = 0.5


class SearchSpec(Section):
    """How hyperparameters are chosen; ``n_trials`` for each model."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    n_trials: PositiveInt = 24
    stack_size: PositiveInt | Literal["auto"] = "auto"
    look_back: PositiveInt = 2
    n_startup: PositiveInt = 10
