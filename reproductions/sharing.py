"""Networks that share their recurrent weights over time beside chains that do not: the same data, updates and care."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from models.activation import ACTIVATIONS
from study.outcome import Outcome
from study.plan import Hyperparameters, Member, StackPlan, TaskPlan, TrainingPlan
from study.training.bracket import Bracket
from study.training.probe import Probe
from study.training.stack import Stack

CELLS = {"shared": "elman", "untied": "untied", "split": "untied"}
"""What the names of the cells begin with, by kind of network. The layers of a split one start from equal matrices: at
first it is the shared network, and only its updates are a chain's.
"""

TASKS = ("latch", "temporal_order")

N_HIDDEN, BATCH_SIZE = 50, 20

LEARNING_RATES = {"sgd": (0.03, 0.1, 0.3, 1.0), "adam": (0.0003, 0.001, 0.003, 0.01)}
"""What is tried, by optimiser."""

TRIAL_SEEDS, SEEDS = (100, 101), (0, 1, 2, 3, 4, 5)
"""Of the networks that the learning rate is chosen by, and of those that are measured."""

N_UPDATES = {"latch": {50: 800, 100: 800}, "temporal_order": {25: 4000, 50: 4000}}
"""The most updates of the networks that are measured, by task and length; those that are tried make half as many."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What both kinds of network are asked: a task at one length, the nonlinearity and the update rule."""

    task: str
    units: str
    length: int
    optimiser: str = "sgd"

    @property
    def shorter(self) -> bool:
        """Whether its length is the shortest of its task."""
        return self.length == min(N_UPDATES[self.task])


@dataclass(frozen=True, kw_only=True)
class Run:
    """One network: its learning rate, its error flow before the first update, and what became of it."""

    seed: int
    learning_rate: float
    start: Probe
    outcome: Outcome

    @property
    def solved(self) -> bool:
        """Whether the task is solved at the length of training."""
        return self.outcome.dependency_length > 0


def critical_scale(units: str) -> float:
    """``1 / f'_max``: the spectral radius at which unsaturated units neither shrink nor stretch what passes them."""
    return 1 / ACTIVATIONS[units].slope_max


def plan(
    kind: str, case: Case, members: Sequence[tuple[int, float]], *, n_updates: int, scale: float = 1.0
) -> StackPlan:
    """A stack of one kind of network.

    Every recurrent matrix, of the one network or of a chain's layer, is Gaussian with a spectral radius of ``scale``
    times the critical one. Equal seeds draw equal training sequences, whatever the kind.

    Args:
        kind: one of ``CELLS``.
        case: task, length, nonlinearity and update rule.
        members: seed and learning rate of each.
        n_updates: when those that have not solved the task stop.
        scale: factor of the initial recurrent weights.
    """
    training = TrainingPlan(
        n_updates=n_updates,
        batch_size=BATCH_SIZE,
        shortest=case.length,
        longest=case.length,
        batches="own",
        report_every=200,
        evaluate_every=200,
        rungs=(),
        keep=1.0,
        ladder=(case.length,),
        n_interim=1000,
        n_final=10_000,
    )

    def hyperparameters(learning_rate: float) -> Hyperparameters:
        return Hyperparameters(
            init="gaussian",
            init_scale=scale * critical_scale(case.units),
            optimiser=case.optimiser,
            learning_rate=learning_rate,
            square_decay=0.999,
        )

    return StackPlan(
        study="shared_weights",
        model=kind,
        cell=f"{CELLS[kind]}_{case.units}",
        n_hidden=N_HIDDEN,
        task=TaskPlan(name=case.task),
        training=training,
        seed=1,
        device="cpu",
        members=tuple(
            Member(number=number, hyperparameters=hyperparameters(rate), seed=seed)
            for number, (seed, rate) in enumerate(members)
        ),
    )


def starts(kind: str, case: Case, scale: float, n_networks: int) -> list[Probe]:
    """Error flow of networks that have not been trained, in double precision: a chain's may be below single."""
    members = [(seed, 0.1) for seed in range(n_networks)]
    return Stack(plan(kind, case, members, n_updates=1, scale=scale), dtype=torch.float64).probe()


def split(case: Case, stack_plan: StackPlan) -> Stack:
    """A stack of chains whose layers have the matrices that shared networks of the same members have at every step."""
    members = stack_plan.members
    shared, chains = Stack(replace(stack_plan, cell=f"{CELLS['shared']}_{case.units}")), Stack(stack_plan)
    weights = map(shared.member_weights, range(len(members)))
    chains.load_weights([one | {"recurrent": one["recurrent"].expand(case.length, -1, -1)} for one in weights])
    return chains


def train(stack: Stack) -> list[Run]:
    """The life of every network of a stack, in the order of its plan; it stops when the task is solved."""
    bracket = Bracket(stack.plan, stack)
    first = bracket.stack.probe()
    outcomes: dict[int, Outcome] = {}
    while not bracket.done:
        outcomes |= {one.number: one.outcome for one in bracket.advance().departures}
    return [
        Run(
            seed=member.seed,
            learning_rate=member.hyperparameters.learning_rate,
            start=first[member.number],
            outcome=outcomes[member.number],
        )
        for member in stack.plan.members
    ]


def train_on(stack: Stack, n_updates: int) -> list[tuple[Probe, bool]]:
    """Error flow at the end of networks that do not stop when they solve the task, and whether they then do."""
    stack.train(n_updates)
    evaluated = stack.evaluate("final", stack.plan.training.n_final, range(len(stack.members)))
    return [(one, rungs[-1].solved) for one, rungs in zip(stack.probe(), evaluated, strict=True)]


def chosen_rate(kind: str, case: Case) -> float:
    """The best learning rate of the optimiser's list, from networks that are not looked at again.

    The best has the lowest mean error, and of equals the fewest updates.
    """
    rates = LEARNING_RATES[case.optimiser]
    members = [(seed, rate) for rate in rates for seed in TRIAL_SEEDS]
    runs = train(Stack(plan(kind, case, members, n_updates=N_UPDATES[case.task][case.length] // 2)))

    def badness(rate: float) -> tuple[float, int]:
        mine = [run.outcome for run in runs if run.learning_rate == rate]
        return sum(outcome.rungs[-1].error for outcome in mine), sum(outcome.n_updates for outcome in mine)

    return min(rates, key=badness)


def compare(task: str, units: str, optimiser: str) -> dict[tuple[Case, str], list[Run]]:
    """Networks by case and kind: shared and untied ones of each length, split ones of the shortest.

    Each kind has its own best learning rate at each length, split ones that of the untied.

    Args:
        task: one of ``TASKS``.
        units: the nonlinearity.
        optimiser: the update rule.
    """
    found = {}
    for length, most in N_UPDATES[task].items():
        case = Case(task=task, units=units, length=length, optimiser=optimiser)
        for kind in ("shared", "untied"):
            rate = chosen_rate(kind, case)
            members = [(seed, rate) for seed in SEEDS]
            found[case, kind] = train(Stack(plan(kind, case, members, n_updates=most)))
        if case.shorter:
            found[case, "split"] = train(split(case, plan("split", case, members, n_updates=most)))
    return found
