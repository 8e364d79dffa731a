"""What tests of stacks share: five members that differ in whatever may differ inside a stack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from study.plan import Hyperparameters, Member, StackPlan, TaskPlan
from study_tests import plan_book
from study_tests.plan_book import STACK

TRAINING = replace(
    plan_book.TRAINING,
    n_updates=20,
    batch_size=6,
    shortest=8,
    longest=14,
    report_every=10,
    evaluate_every=20,
    ladder=(10, 14),
)

MIXED = (
    Hyperparameters(init="gaussian", optimiser="sgd", learning_rate=0.1, clip_norm=0.5),
    Hyperparameters(init="identity", init_scale=0.9, optimiser="adam", learning_rate=0.01, bias_init="chrono"),
    Hyperparameters(
        init="orthogonal", input_scale=0.3, optimiser="nesterov", learning_rate=0.05, forget_bias=3.0, bptt_steps=5
    ),
    Hyperparameters(init="sparse", init_scale=1.2, optimiser="rmsprop", learning_rate=0.003, clip_norm=float("inf")),
    Hyperparameters(init="basic_tanh", optimiser="vario_eta", weight_decay=0.01, clip_fallback="shrink_recurrent"),
)

MIXED_NOISE: tuple[dict[str, Any], ...] = (
    {},
    {"p_drop_output": 0.3, "fast_readout": "moments"},
    {"dropout_masks": "sequence"},
    {"fast_readout": "moments"},
    {"p_drop_output": 0.2, "dropout_masks": "sequence"},
)
"""What the members say of dropout beside the rates that all have, where there is any."""


def plan(cell: str, dropout: str = "none", batches: str = "shared", task: str = "temporal_order") -> StackPlan:
    def noisy(chosen: Hyperparameters, noise: dict[str, Any]) -> Hyperparameters:
        if dropout == "none":
            return chosen
        return replace(chosen, dropout=dropout, p_drop_input=0.1, p_drop_recurrent=0.2, **noise)

    members = tuple(
        Member(number=number, hyperparameters=noisy(*both), seed=100 + number)
        for number, both in enumerate(zip(MIXED, MIXED_NOISE, strict=True))
    )
    training = replace(TRAINING, batches=batches)
    return replace(STACK, cell=cell, n_hidden=7, task=TaskPlan(name=task), training=training, seed=11, members=members)


CODE, EQ9 = {"omega_form": "pascanu2013_code"}, {"omega_form": "pascanu2013_eq9"}

PAYING: dict[str, dict[int, dict[str, Any]]] = {
    "omega": {1: {"omega_weight": 2.0, **CODE}, 3: {"omega_weight": 0.5, **EQ9}},
    "l1": {0: {"l1_states": 0.01}, 3: {"l1_states": 0.1}},
    "both": {1: {"l1_states": 0.1, "omega_weight": 0.5, **CODE}, 2: {"omega_weight": 0.5, **EQ9}},
}
"""What some members pay beside their loss, by their number."""


def charged(whole: StackPlan, paying: dict[int, dict[str, Any]]) -> StackPlan:
    """The stack with members that pay."""
    members = tuple(
        replace(member, hyperparameters=replace(member.hyperparameters, **paying.get(k, {})))
        for k, member in enumerate(whole.members)
    )
    return replace(whole, members=members)
