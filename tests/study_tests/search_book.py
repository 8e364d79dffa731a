"""What the tests of the search share: a model with conditional hyperparameters, and a stand-in for training."""

from __future__ import annotations

from study.outcome import Outcome, Status
from study.plan import Choices, Domain, Interval, ModelPlan, SearchPlan
from study.record import TrialRecord

SPACE: dict[str, Domain] = {
    "init": Choices(values=("orthogonal", "identity")),
    "init_scale": Interval(low=0.5, high=2.0, log=True),
    "input_scale": 1.0,
    "bias_init": "constant",
    "forget_bias": Interval(low=0.0, high=5.0),
    "optimiser": Choices(values=("sgd", "nesterov", "adam")),
    "learning_rate": Interval(low=1e-4, high=1.0, log=True),
    "momentum": Interval(low=0.5, high=0.99),
    "square_decay": 0.99,
    "weight_decay": 0.0,
    "clip_norm": float("inf"),
    "bptt_steps": float("inf"),
    "dropout": Choices(values=("none", "dropout")),
    "p_drop_input": Interval(low=0.0, high=0.5),
    "p_drop_recurrent": 0.1,
    "p_drop_output": 0.0,
    "dropout_masks": "step",
    "l1_states": 0.0,
    "omega_weight": 0.0,
}


def plan(sampler: str = "tpe", n_startup: int = 4) -> SearchPlan:
    return SearchPlan(sampler=sampler, n_trials=30, stack_size=4, look_back=1, n_startup=n_startup)  # type: ignore[arg-type]


def model(cell: str = "lstm", **space: Domain) -> ModelPlan:
    return ModelPlan(name="m", cell=cell, n_hidden=5, space={**SPACE, **space})


def fixed(**choices: Domain) -> dict[str, Domain]:
    plain: dict[str, Domain] = {"init_scale": 1.0, "forget_bias": 1.0, "momentum": 0.9, "p_drop_input": 0.1}
    return {**plain, "learning_rate": 0.1, "optimiser": "sgd", "dropout": "none", "init": "identity", **choices}


def outcome(record: TrialRecord) -> Outcome:
    """A stand-in for training: a smooth function of the parameters; every third trial is pruned."""
    rate = float(record.parameters["learning_rate"])
    return Outcome(
        status=Status.PRUNED if record.key.number % 3 == 2 else Status.COMPLETE,
        dependency_length=int(100 * rate**0.1),
        skill=0.25,
        diverged=False,
        n_updates=100 if record.key.number % 3 == 2 else 1000,
    )
