"""What a study consists of, and what a worker is told to do: plain values that every room understands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Parameter = str | float | int
"""A searched or fixed hyperparameter's value."""

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """All numbers from ``low`` to ``high``, searched uniformly, or uniformly in the logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A closed set of values, searched without order."""

    values: tuple[Parameter, ...]


Domain = Interval | Choices | Parameter
"""Where a hyperparameter may lie; a plain value is fixed."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """All that may differ between the members of a stack, and the dropout kind, which may not.

    ``clip_norm`` is infinite where gradients are not clipped, ``bptt_steps``, else a whole number, where they are not
    truncated. ``momentum`` is read by heavy ball, Nesterov and Adam
    (as beta_1), ``square_decay`` by RMSprop, Adam (as beta_2) and VarioEta, ``forget_bias`` by cells with a forget gate
    whose ``bias_init`` is ``constant``, ``chrono_length`` by those where it is ``chrono``,
    ``leaky_share``, ``leak_low`` and ``leak_high`` by cells whose units leak, ``connectivity`` by the state space
    model, ``dropout_masks`` where masks are drawn, ``fast_readout`` in fast dropout.
    """

    init: str = "orthogonal"
    init_scale: float = 1.0
    input_scale: float = 1.0
    bias_init: str = "constant"
    forget_bias: float = 1.0
    chrono_length: float = 100.0
    leaky_share: float = 1.0
    leak_low: float = 0.02
    leak_high: float = 0.2
    connectivity: float = 1.0
    optimiser: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    square_decay: float = 0.99
    weight_decay: float = 0.0
    l1_states: float = 0.0
    omega_weight: float = 0.0
    omega_form: str = "pascanu2013_code"
    clip_norm: float = 1.0
    clip_fallback: str = "none"
    bptt_steps: float = math.inf
    dropout: str = "none"
    p_drop_input: float = 0.0
    p_drop_recurrent: float = 0.0
    p_drop_output: float = 0.0
    dropout_masks: str = "step"
    fast_readout: str = "mean"


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trial's network: its Optuna number, its hyperparameters and the seed of its own random streams."""

    number: int
    hyperparameters: Hyperparameters
    seed: int


@dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """A task by name, with the parameters of its variant."""

    name: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How every member of a study is trained and measured; lengths in time steps, the rest in updates or sequences.

    Each update draws T uniformly from ``shortest`` to ``longest``, both included. ``rungs`` are the updates after which
    the share ``keep`` of a stack goes on; there and every ``evaluate_every`` updates the ladder is climbed with
    ``n_interim`` sequences per length, and with ``n_final`` when a member leaves.
    """

    n_updates: int
    batch_size: int
    shortest: int
    longest: int
    batches: Literal["shared", "own"]
    report_every: int
    evaluate_every: int
    rungs: tuple[int, ...]
    keep: float
    ladder: tuple[int, ...]
    n_interim: int
    n_final: int

    @property
    def longest_met(self) -> int:
        """The longest sequence that a member meets, in training or on the ladder."""
        return max(self.longest, self.ladder[-1])


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    """A group of one model's trials that are trained together; they share cell, sizes and dropout kind."""

    study: str
    model: str
    cell: str
    n_hidden: int
    task: TaskPlan
    training: TrainingPlan
    seed: int
    device: Device
    members: tuple[Member, ...]

    @property
    def dropout(self) -> str:
        """The dropout kind that all members share."""
        return self.members[0].hyperparameters.dropout


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One of the networks that a study compares, and where its hyperparameters are searched.

    ``member_seed`` fixes the random streams of its members; by default they follow from the trial's number.
    """

    name: str
    cell: str
    n_hidden: int
    space: Mapping[str, Domain]
    member_seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How hyperparameters are chosen: ``n_trials`` for each model, in rounds of ``stack_size``.

    Round n of a model is asked once its rounds up to n - ``look_back`` have been told; the first ``n_startup`` trials
    are drawn at random.
    """

    sampler: Literal["tpe", "random", "grid"]
    n_trials: int
    stack_size: int
    look_back: int
    n_startup: int


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """A whole study: one search for each model, all on the same task, budget and training."""

    name: str
    seed: int
    task: TaskPlan
    training: TrainingPlan
    search: SearchPlan
    models: tuple[ModelPlan, ...]
    device: Device

    def model(self, name: str) -> ModelPlan:
        """The model of this name; KeyError if the study has none."""
        return {model.name: model for model in self.models}[name]
