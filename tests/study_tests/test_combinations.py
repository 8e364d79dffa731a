"""Any combination of cell and hyperparameters that a study file may ask for trains, and all others are refused."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest
from pydantic import ValidationError

from models import CELLS
from study.hyperparameter import HYPERPARAMETERS, applying, hyperparameters
from study.plan import Interval, Member, Parameter, StudyPlan
from study.spec import Spec
from study.training.stack import Stack
from study_tests.plan_book import STACK

N_DRAWN, N_TOGETHER = 200, 4

OFTEN_OFF: dict[str, tuple[Parameter, ...]] = {
    "weight_decay": (0.0, 1e-3),
    "l1_states": (0.0, 0.0, 0.01),
    "omega_weight": (0.0, 0.0, 0.0, 2.0),
    "clip_norm": (1.0, float("inf")),
    "bptt_steps": (float("inf"), float("inf"), 4, 7),
    "p_drop_output": (0.0, 0.3),
}
"""Values of what is off, or the same for all, unless a study asks for it."""


def values_of(random_values: random.Random) -> dict[str, Parameter]:
    """A value for every hyperparameter without a fixed default, whatever the cell."""
    values: dict[str, Parameter] = {}
    for name, one in HYPERPARAMETERS.items():
        if name in OFTEN_OFF:
            values[name] = random_values.choice(OFTEN_OFF[name])
        elif one.names:
            values[name] = random_values.choice(one.names)
        elif isinstance(one.default, Interval):
            values[name] = random_values.uniform(one.default.low, one.default.high)
    # A step that no optimiser turns into infinity.
    values["learning_rate"] = 1e-3
    return values


def planned(cell: str, values: dict[str, Parameter]) -> StudyPlan:
    """The plan of a study of one network with these values, if it is not refused."""
    return Spec.model_validate(
        {
            "name": "combined",
            "task": {"name": "temporal_order"},
            "ladder": [10],
            "n_hidden": 6,
            "training": {"n_updates": 1, "lengths": 10, "batch_size": 3},
            "search": {"sampler": "grid", "n_trials": 1},
            "models": {"net": {"cell": cell, "space": values}},
        }
    ).plan("cpu")


def test_every_combination_trains_in_a_mixed_stack_or_is_refused_with_a_sentence() -> None:
    random_values = random.Random(0)
    accepted: dict[tuple[str, str], list[tuple[StudyPlan, Member]]] = defaultdict(list)
    n_refused = 0
    cells = list(CELLS)
    for number in range(N_DRAWN):
        # All cells in turn, so that none is left out by chance.
        cell, plan = cells[number % len(cells)], None
        while plan is None:
            values = values_of(random_values)
            try:
                plan = planned(cell, values)
            except ValidationError as error:
                (problem,) = error.errors()
                assert " needs one of the cells " in problem["msg"]
                assert f"but the cell is {cell}" in problem["msg"]
                n_refused += 1
        chosen = hyperparameters(applying(cell, values))
        member = Member(number=number, hyperparameters=chosen, seed=number)
        accepted[cell, member.hyperparameters.dropout].append((plan, member))
    assert n_refused > 0
    for (cell, _), group in accepted.items():
        for start in range(0, len(group), N_TOGETHER):
            plans, members = zip(*group[start : start + N_TOGETHER], strict=True)
            stack = Stack(replace(STACK, cell=cell, n_hidden=6, training=plans[0].training, members=members))
            before = stack.flat.clone()
            stack.train(1)
            assert stack.flat.isfinite().all(), members
            moved = (stack.flat != before).any(1).tolist()
            assert all(moved), [member for member, one in zip(members, moved, strict=True) if not one]


@pytest.mark.parametrize("cell", CELLS)
def test_the_default_search_of_every_cell_is_accepted(cell: str) -> None:
    raw = {"name": "default", "task": {"name": "latch"}, "ladder": [10], "models": {"net": {"cell": cell}}}
    space = Spec.model_validate(raw | {"training": {"lengths": 10}}).plan("cpu").models[0].space
    assert set(space) == set(HYPERPARAMETERS)
