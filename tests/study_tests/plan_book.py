"""Small plans for tests of training and search; a test replaces what it is about."""

from __future__ import annotations

from dataclasses import asdict

from study.plan import (
    Choices,
    Domain,
    Hyperparameters,
    Interval,
    ModelPlan,
    SearchPlan,
    StackPlan,
    TaskPlan,
    TrainingPlan,
)

TRAINING = TrainingPlan(
    n_updates=10,
    batch_size=5,
    shortest=6,
    longest=10,
    batches="shared",
    report_every=5,
    evaluate_every=10,
    rungs=(),
    keep=0.5,
    ladder=(6, 10),
    n_interim=250,
    n_final=1000,
)

STACK = StackPlan(
    study="s",
    model="m",
    cell="elman_tanh",
    n_hidden=5,
    task=TaskPlan(name="temporal_order"),
    training=TRAINING,
    seed=2,
    device="cpu",
    members=(),
)
"""A stack of nobody."""

POINT: dict[str, Domain] = asdict(Hyperparameters())
"""The space of a network whose every hyperparameter is fixed."""

SPACE: dict[str, Domain] = {
    **POINT,
    "init": Choices(values=("orthogonal", "identity")),
    "init_scale": Interval(low=0.5, high=2.0, log=True),
    "forget_bias": Interval(low=0.0, high=5.0),
    "optimiser": Choices(values=("sgd", "nesterov", "adam")),
    "learning_rate": Interval(low=1e-4, high=1.0, log=True),
    "momentum": Interval(low=0.5, high=0.99),
    "clip_norm": float("inf"),
    "dropout": Choices(values=("none", "dropout")),
    "p_drop_input": Interval(low=0.0, high=0.5),
    "p_drop_recurrent": 0.1,
}
"""Some hyperparameters are searched always, some where others have the right value, some never."""

MODEL = ModelPlan(name="m", cell="lstm", n_hidden=5, space=SPACE)

SEARCH = SearchPlan(sampler="tpe", n_trials=30, stack_size=4, look_back=1, n_startup=4)
