"""What a user asks for: the sections of a study file, and the plan that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from models import CELLS, FAST_CELLS
from models.network import Dropout
from study.errors import must, unknown_name
from study.hyperparameter import HYPERPARAMETERS, default_domain, fit_domain, fixed_space
from study.plan import (
    Choices,
    Device,
    Domain,
    Interval,
    ModelPlan,
    Parameter,
    SearchPlan,
    StudyPlan,
    TaskPlan,
    TrainingPlan,
)
from tasks import TASKS, Task

STACK_SIZE: dict[Device, int] = {"cpu": 8, "cuda": 256}
"""Members trained together where the study file leaves it to the machine."""

MAX_LENGTH = 100_000
"""Longest sequence, in time steps, that a study may ask for; beyond it a batch no longer fits a worker's memory."""

Value = Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | float | str
PositiveInt = Annotated[int, Field(ge=1)]
Length = Annotated[int, Field(ge=1, le=MAX_LENGTH)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSpec(_Section):
    """Which task, and the parameters of its variant."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    def build(self) -> Task:
        """The task itself; raises ValueError with a sentence if there is none such."""
        if self.name not in TASKS:
            raise ValueError(unknown_name("task", self.name, TASKS))
        try:
            return TASKS[self.name](**self.parameters)
        except TypeError:
            raise ValueError(
                f"task {self.name} must get parameters that it has, but got {', '.join(self.parameters)}"
            ) from None


class RangeSpec(_Section):
    """An interval to search."""

    low: float
    high: float
    log: bool = False


class ChoicesSpec(_Section):
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


class TrainingSpec(_Section):
    """How every network is trained."""

    n_updates: PositiveInt = 4000
    batch_size: PositiveInt = 20
    lengths: Length | Annotated[list[Length], Field(min_length=2, max_length=2)] = [10, 100]
    batches: Literal["shared", "own"] = "shared"
    report_every: PositiveInt = 500
    evaluate_every: PositiveInt = 1000
    n_interim: Annotated[int, Field(ge=100)] = 1000
    n_final: Annotated[int, Field(ge=1000)] = 10_000


class HalvingSpec(_Section):
    """When the worst members of a stack stop: after ``rungs`` updates the share ``keep`` goes on."""

    rungs: list[PositiveInt] = []
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5


class SearchSpec(_Section):
    """How hyperparameters are chosen; ``n_trials`` for each model."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    n_trials: PositiveInt = 24
    stack_size: PositiveInt | Literal["auto"] = "auto"
    look_back: PositiveInt = 2
    n_startup: PositiveInt = 10


class ModelSpec(_Section):
    """One network of the comparison; its ``space`` overrides the study's."""

    cell: str
    n_hidden: Annotated[int, Field(ge=1, le=10_000)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    space: dict[str, DomainSpec] = {}


class Spec(_Section):
    """A study file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    description: str = ""
    task: TaskSpec
    ladder: list[Length]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    n_hidden: Annotated[int, Field(ge=1, le=10_000)] = 50
    training: TrainingSpec = TrainingSpec()
    halving: HalvingSpec = HalvingSpec()
    search: SearchSpec = SearchSpec()
    models: Annotated[dict[str, ModelSpec], Field(min_length=1)]
    space: dict[str, DomainSpec] = {}
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _makes_sense(self) -> Spec:
        task = self.task.build()
        shortest, longest = self._lengths()
        must(shortest <= longest, "lengths must be [shortest, longest]", f"got [{shortest}, {longest}]")
        must(bool(self.ladder), "ladder must name at least one sequence length", "it is empty")
        must(
            all(a < b for a, b in zip(self.ladder, self.ladder[1:], strict=False)),
            "ladder must increase",
            f"got {self.ladder}",
        )
        least = min(shortest, self.ladder[0])
        must(
            least >= task.shortest_length,
            f"lengths of task {self.task.name} must be {task.shortest_length} or more",
            f"got {least}",
        )
        must(
            self.ladder[-1] >= shortest,
            f"ladder must reach the shortest training length {shortest}",
            f"it ends at {self.ladder[-1]}",
        )
        rungs = self.halving.rungs
        must(
            all(a < b for a, b in zip([0, *rungs], [*rungs, self.training.n_updates], strict=True)),
            f"halving.rungs must increase and lie below n_updates = {self.training.n_updates}",
            f"got {rungs}",
        )
        for name, model in self.models.items():
            must(
                not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"),
                "a model's name must consist of letters, digits, '_', '.' and '-'",
                f"got {name!r}",
            )
            if model.cell not in CELLS:
                raise ValueError(f"models.{name}.cell: {unknown_name('cell', model.cell, CELLS)}")
            self._check_space(name, model)
        return self

    def _check_space(self, name: str, model: ModelSpec) -> None:
        for where, space in (("space", self.space), (f"models.{name}.space", model.space)):
            for key, domain in space.items():
                if key not in HYPERPARAMETERS:
                    raise ValueError(f"{where}: {unknown_name('hyperparameter', key, HYPERPARAMETERS)}")
                HYPERPARAMETERS[key].check(f"{where}.{key}", _domain(domain))
        own = _domain(model.space["dropout"]) if "dropout" in model.space else None
        kinds = own.values if isinstance(own, Choices) else (own,)
        must(
            Dropout.FAST not in kinds or model.cell in FAST_CELLS,
            f"models.{name}.space.dropout: fast dropout needs one of the cells {', '.join(FAST_CELLS)}",
            f"the cell is {model.cell}",
        )
        if self.search.sampler == "grid":
            n_points = math.prod(
                len(domain.values) if isinstance(domain, Choices) else 1 for domain in self._space(name).values()
            )
            loose = [key for key, domain in self._space(name).items() if isinstance(domain, Interval)]
            must(
                not loose,
                "sampler grid needs choices or fixed values",
                f"{', '.join(loose)} of model {name} {'is an interval' if len(loose) == 1 else 'are intervals'}",
            )
            must(
                self.search.n_trials % n_points == 0,
                f"n_trials must be a multiple of the {n_points} points of the grid of model {name}",
                f"got {self.search.n_trials}",
            )

    def _lengths(self) -> tuple[int, int]:
        lengths = self.training.lengths
        return (lengths, lengths) if isinstance(lengths, int) else (lengths[0], lengths[1])

    def _space(self, name: str) -> dict[str, Domain]:
        """The whole space of a model: its own domains, then the study's, then the defaults."""
        model = self.models[name]
        space: dict[str, Domain] = {}
        for key in HYPERPARAMETERS:
            if key in model.space:
                space[key] = _domain(model.space[key])
            elif key in self.space:
                space[key] = fit_domain(key, model.cell, _domain(self.space[key]))
            else:
                space[key] = default_domain(key, model.cell)
        return space

    def plan(self, device: Device) -> StudyPlan:
        """What to do, with all that the file leaves open decided for this device."""
        shortest, longest = self._lengths()
        training, search = self.training, self.search
        size = STACK_SIZE[device] if search.stack_size == "auto" else search.stack_size
        return StudyPlan(
            name=self.name,
            seed=self.seed,
            task=TaskPlan(name=self.task.name, parameters=self.task.parameters),
            training=TrainingPlan(
                n_updates=training.n_updates,
                batch_size=training.batch_size,
                shortest=shortest,
                longest=longest,
                batches=training.batches,
                report_every=training.report_every,
                evaluate_every=training.evaluate_every,
                rungs=tuple(self.halving.rungs),
                keep=self.halving.keep,
                ladder=tuple(self.ladder),
                n_interim=training.n_interim,
                n_final=training.n_final,
            ),
            search=SearchPlan(
                sampler=search.sampler,
                n_trials=search.n_trials,
                stack_size=min(size, search.n_trials),
                look_back=search.look_back,
                n_startup=search.n_startup,
            ),
            models=tuple(
                ModelPlan(
                    name=name,
                    cell=model.cell,
                    n_hidden=model.n_hidden or self.n_hidden,
                    space=self._space(name),
                    member_seed=model.seed,
                )
                for name, model in self.models.items()
            ),
            device=device,
        )

    def pinned(self, model: str, parameters: Mapping[str, Parameter], seed: int, name: str) -> Spec:
        """A study of one trial: this model with these hyperparameters and this random stream."""
        raw = self.model_dump(mode="json", exclude_defaults=True) | {
            "name": name,
            "space": {},
            "search": {"sampler": "grid", "n_trials": 1, "stack_size": 1},
        }
        raw["models"] = {
            model: raw["models"][model] | {"seed": seed, "space": fixed_space(self._space(model), parameters)}
        }
        return Spec.model_validate(raw)


def _domain(spec: DomainSpec) -> Domain:
    if isinstance(spec, RangeSpec):
        return Interval(low=spec.low, high=spec.high, log=spec.log)
    if isinstance(spec, ChoicesSpec):
        return Choices(values=tuple(spec.choices))
    return spec
