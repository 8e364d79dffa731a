"""What a user asks for: the sections of a study file, and the plan that follows from them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from models import CELLS
from study.dimension import bounds_or_values
from study.errors import must, unknown_name
from study.grid import grid_points
from study.hyperparameter import HYPERPARAMETERS, default_domain, fit_domain, fixed_space, misfits
from study.outcome import Status
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
from study.record import TrialRecord
from study.section import (
    ChoicesSpec,
    DomainSpec,
    HalvingSpec,
    Length,
    RangeSpec,
    SearchSpec,
    Section,
    Seed,
    TaskSpec,
    TrainingSpec,
    Width,
)
from tasks import Problem

STACK_SIZE: dict[Device, int] = {"cpu": 8, "cuda": 256}
"""Members trained together where the study file leaves it to the machine."""

MAX_CHAIN_WEIGHTS = 10_000_000
"""Recurrent weights of a network that has its own at every step; more, and a stack no longer fits a worker's memory."""

MAX_NAME = 64
"""Characters of a study's name."""

NAME = rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_NAME - 1}}}"

MAX_MODEL_NAME = 200
"""Characters of a model's name, which is a part of the names of files and metrics."""

MODEL_NAME = rf"[A-Za-z0-9_.-]{{1,{MAX_MODEL_NAME}}}"

Space = dict[str, DomainSpec]


class ModelSpec(Section):
    """One network of the comparison; its ``space`` overrides the study's."""

    cell: str
    n_hidden: Width | None = None
    seed: Seed | None = None
    space: Space = Field(default_factory=dict)


class Spec(Section):
    """A study file."""

    name: str
    description: str = ""
    task: TaskSpec
    ladder: list[Length]
    seed: Seed = 1
    n_hidden: Width = 50
    training: TrainingSpec = TrainingSpec()
    halving: HalvingSpec = HalvingSpec()
    search: SearchSpec = SearchSpec()
    models: dict[str, ModelSpec]
    space: Space = Field(default_factory=dict)
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _makes_sense(self) -> Spec:
        must(
            re.fullmatch(NAME, self.name) is not None,
            f"name must be 1 to {MAX_NAME} letters, digits, '_', '.' and '-', a letter or digit first",
            f"got {self.name!r}",
        )
        must(bool(self.models), "models must name at least one network", "it is empty")
        task = self.task.build()
        shortest, longest = self._lengths()
        must(shortest <= longest, "training.lengths must be [shortest, longest]", f"got [{shortest}, {longest}]")
        must(bool(self.ladder), "ladder must name at least one sequence length", "it is empty")
        must(
            all(a < b for a, b in zip(self.ladder, self.ladder[1:], strict=False)),
            "ladder must increase",
            f"got {self.ladder}",
        )
        self._check_lengths(task)
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
                re.fullmatch(MODEL_NAME, name) is not None and bool(name.strip(".")),
                f"a model's name must be 1 to {MAX_MODEL_NAME} letters, digits, '_', '.' and '-'",
                f"got {name!r}",
            )
            if model.cell not in CELLS:
                raise ValueError(f"models.{name}.cell: {unknown_name('cell', model.cell, CELLS)}")
            self._check_chain(name, model)
            self._check_space(name, model, task)
        return self

    def _check_lengths(self, task: Problem) -> None:
        shortest, longest = self._lengths()
        lengths = "training.lengths" + ("" if "lengths" in self.training.model_fields_set else " (the default)")
        for what, least, given in (
            (lengths, task.shortest_length, shortest),
            ("lengths of the ladder", task.shortest_rung, self.ladder[0]),
        ):
            must(given >= least, f"{what} of task {self.task.name} must be {least} or more", f"got {given}")
        most = task.longest_length or max(longest, self.ladder[-1])
        for what, given in ((lengths, longest), ("lengths of the ladder", self.ladder[-1])):
            must(given <= most, f"{what} of task {self.task.name} must be {most} or less", f"got {given}")

    def _check_chain(self, name: str, model: ModelSpec) -> None:
        n_hidden, n_steps = model.n_hidden or self.n_hidden, max(self._lengths()[1], self.ladder[-1])
        if CELLS[model.cell].for_length(n_steps) is not CELLS[model.cell]:
            must(
                n_steps * n_hidden**2 <= MAX_CHAIN_WEIGHTS,
                f"models.{name}: a chain must have {MAX_CHAIN_WEIGHTS} recurrent weights or fewer",
                f"{n_steps} steps of {n_hidden} units have {n_steps * n_hidden**2}",
            )

    def _check_space(self, name: str, model: ModelSpec, task: Problem) -> None:
        for where, space in (("space", self.space), (f"models.{name}.space", model.space)):
            for key, domain in space.items():
                if key not in HYPERPARAMETERS:
                    raise ValueError(f"{where}: {unknown_name('hyperparameter', key, HYPERPARAMETERS)}")
                HYPERPARAMETERS[key].check(f"{where}.{key}", _domain(domain))
                must(
                    key != "fast_readout" or task.expects_loss or "moments" not in bounds_or_values(_domain(domain)),
                    f"{where}.{key}: moments needs a task whose loss is known on average",
                    f"the task is {self.task.name}",
                )
        for key, domain in model.space.items():
            values = bounds_or_values(_domain(domain))
            for value, need in misfits(key, model.cell, values).items():
                must(value not in values, f"models.{name}.space.{key}: {need}", f"the cell is {model.cell}")
        whole = self._space(name)  # Refuses what leaves the cell nothing.
        if self.search.sampler == "grid":
            n_points = len(grid_points(model.cell, whole))
            must(
                self.search.n_trials % n_points == 0,
                f"n_trials must be a multiple of the {n_points} points of the grid of model {name}",
                f"got {self.search.n_trials}",
            )

    def _lengths(self) -> tuple[int, int]:
        lengths = self.training.lengths
        return (lengths, lengths) if isinstance(lengths, int) else (lengths[0], lengths[1])

    def resolved(self) -> Spec:
        """The same study with every model's whole space written out: a study keeps it where defaults change."""
        raw = self.model_dump(mode="json") | {"space": {}}
        for name, model in raw["models"].items():
            model["space"] = {key: _written(domain) for key, domain in self._space(name).items()}
        return Spec.model_validate(raw)

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

    def pinned(self, record: TrialRecord) -> Spec:
        """A study of one trial: its model with its hyperparameters and its random stream, called STUDY-MODEL-NUMBER.

        It ends where the trial was pruned, if it is known to have been.
        """
        model = record.key.model
        name = short_name(f"{record.key.study}-{model}-{record.key.number}")
        raw = self._fixed({model: record.parameters}, 1, name)
        raw["models"][model]["seed"] = record.seed
        if record.outcome is not None and record.outcome.status is Status.PRUNED:
            end = record.outcome.n_updates
            raw["training"] = raw.get("training", {}) | {"n_updates": end}
            # Measuring at a rung ends a trial that solves everything, so those before the end stay.
            raw["halving"] |= {"rungs": [rung for rung in self.halving.rungs if rung < end]}
        return Spec.model_validate(raw)

    def replicated(self, chosen: Mapping[str, Mapping[str, Parameter]], n_replicates: int, name: str) -> Spec:
        """A study of these models' hyperparameters, each trained from so many seeds to the end, on data of its own."""
        raw = self._fixed(chosen, n_replicates, name) | {"seed": self.seed + 1}
        raw.pop("halving", None)
        raw["training"] = raw.get("training", {}) | {"batches": "own"}
        for model in raw["models"].values():
            model.pop("seed", None)
        return Spec.model_validate(raw)

    def _fixed(self, chosen: Mapping[str, Mapping[str, Parameter]], n_trials: int, name: str) -> dict[str, Any]:
        """The specification with one point for each chosen model, as many times."""
        raw = self.model_dump(mode="json", exclude_defaults=True)
        search = {"sampler": "grid", "n_trials": n_trials, "stack_size": n_trials}
        models = {
            model: raw["models"][model] | {"space": fixed_space(self._space(model), parameters)}
            for model, parameters in chosen.items()
        }
        return raw | {"name": name, "space": {}, "search": search, "models": models}


def short_name(name: str) -> str:
    """The name, or, where it is too long for a study, its start and a hash of all of it."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 1 - len(digest)]}-{digest}"


def _domain(spec: DomainSpec) -> Domain:
    if isinstance(spec, RangeSpec):
        return Interval(low=spec.low, high=spec.high, log=spec.log)
    if isinstance(spec, ChoicesSpec):
        return Choices(values=tuple(spec.choices))
    return spec


def _written(domain: Domain) -> dict[str, Any] | Parameter:
    if isinstance(domain, Interval):
        return {"low": domain.low, "high": domain.high, "log": domain.log}
    if isinstance(domain, Choices):
        return {"choices": list(domain.values)}
    return domain
