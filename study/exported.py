"""A trial in a folder: written by ``export``, run again by ``launch``, measured again by ``evaluate``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from study.errors import UserError
from study.hyperparameter import applying, hyperparameters
from study.outcome import Rung
from study.plan import Choices, Interval, Member, StackPlan, StudyPlan
from study.report import Json
from study.spec import Spec
from study.study_file import dump_spec, parse_spec, read_text
from study.tracking.server import WEIGHTS
from study.training.stack import Stack

STUDY_FILE, OUTCOME = "study.yaml", "outcome.json"
"""Names of the files beside the weights."""

DATA = "data"
"""What tells the files of a data set, in the outcome."""


def write_export(folder: Path, spec: Spec, described: Mapping[str, Json], fetch: Callable[[Path], object]) -> None:
    """Make a folder of a trial, whole or not at all.

    Args:
        folder: new or empty.
        spec: the study of this one trial.
        described: the trial as data.
        fetch: puts the weights into the folder that it is given.

    Raises:
        UserError: the folder has something in it, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"the folder to export to must be new or empty, but {folder} is not")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{spec.name}-", dir=folder.parent) as scratch:
            unfinished = Path(scratch) / "export"
            unfinished.mkdir()
            fetch(unfinished)
            (unfinished / STUDY_FILE).write_text(dump_spec(spec), encoding="utf-8")
            (unfinished / OUTCOME).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(folder)
    except OSError as error:
        raise UserError(f"the folder to export to must be writable, but {folder} is not: {error.strerror}") from None


def read_export(folder: Path) -> tuple[StudyPlan, Mapping[str, Tensor]]:
    """What ``evaluate`` takes.

    Raises:
        UserError: the folder is none that ``write_export`` made, or the data that the task rests on is not there, or
            is no longer what the network was trained on.
    """
    file = folder / STUDY_FILE
    if not file.is_file():
        raise UserError(f"an exported trial is needed, but there is no {file}")
    spec = parse_spec(read_text(file), source=str(file))
    data, outcome = spec.task.check_data(), folder / OUTCOME
    # Exports of earlier versions have not kept it, and nobody needs the outcome otherwise.
    kept = _load_outcome(outcome).get(DATA) if outcome.is_file() else None
    if kept and kept != data:
        raise UserError(
            f"the data must stay as {folder} was trained on, but task {spec.task.name} reads other files now"
        )
    return spec.plan("cpu"), _load_weights(folder / WEIGHTS)


def _load_outcome(path: Path) -> Mapping[str, Json]:
    try:
        outcome = json.loads(read_text(path))
    except ValueError:
        outcome = None
    if not isinstance(outcome, dict):
        raise UserError(f"{path} must be a mapping in JSON, as export writes it, but it is not")
    return outcome


def _load_weights(path: Path) -> Mapping[str, Tensor]:
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
    member = Member(number=0, hyperparameters=hyperparameters(applying(model.cell, fixed)), seed=0)
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
