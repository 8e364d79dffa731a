"""Measuring an exported network again, on sequences that nobody has seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from study.errors import UserError
from study.hyperparameter import hyperparameters
from study.outcome import Rung
from study.plan import Choices, Interval, Member, StackPlan, StudyPlan
from study.training.stack import Stack


def load_weights(path: Path) -> Mapping[str, Tensor]:
    """Parameters of one network by name; raises UserError if the file does not hold any."""
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} must be a safetensors file, but it is not: {error}") from None
    return weights


def evaluate(plan: StudyPlan, weights: Mapping[str, Tensor], *, n_sequences: int, draw: int) -> tuple[Rung, ...]:
    """Climb the ladder of a study of one fixed trial with given weights.

    Args:
        plan: a study whose single model has no hyperparameter left to search, as ``longlag export`` writes it.
        weights: parameters by name, without a member axis.
        n_sequences: fresh sequences at each length.
        draw: which independent set of sequences; none of them is ever used by a study.

    Raises:
        UserError: the plan has more than one trial, or the weights do not fit it.
    """
    model = plan.models[0]
    if len(plan.models) > 1 or any(isinstance(domain, Interval | Choices) for domain in model.space.values()):
        raise UserError(f"a study of one fixed trial is needed, as export writes it, but {plan.name} searches")
    fixed = {name: domain for name, domain in model.space.items() if not isinstance(domain, Interval | Choices)}
    member = Member(number=0, hyperparameters=hyperparameters(fixed), seed=0)
    stack = Stack(
        StackPlan(
            study=plan.name,
            model=model.name,
            cell=model.cell,
            n_hidden=model.n_hidden,
            task=plan.task,
            training=plan.training,
            seed=plan.seed,
            device=plan.device,
            members=(member,),
        )
    )
    expected = {name: tuple(shape) for name, shape in stack.network.shapes().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        raise UserError(f"the weights must have the shapes {expected}, but they have {found}")
    stack.load_weights([weights])
    return stack.evaluate(f"again/{draw}", n_sequences, [0])[0]
