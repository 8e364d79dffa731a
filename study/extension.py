"""Tasks and cells of other packages: what these declare as entry points is entered in the registries."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeGuard, TypeVar

from models import CELLS, FAST_CELLS
from models.cell import Cell
from study.errors import UserError
from tasks import DATASETS, TASKS, Dataset, Task

Entry = TypeVar("Entry")


def extend_registries() -> None:
    """Enter every task, data set and cell that an installed package declares; one that is entered already stays.

    Whoever looks up a name does this first, in every process: workers share no memory with the process that asks.

    Raises:
        UserError: what is declared cannot be imported, is of another kind, or bears a name that is taken.
    """
    _extend("longlag.tasks", TASKS, "a subclass of tasks.Task", _is_task)
    _extend("longlag.datasets", DATASETS, "a subclass of tasks.Dataset", _is_dataset)
    _extend("longlag.cells", CELLS, "an instance of models.cell.Cell", _is_cell)
    _extend("longlag.fast_cells", FAST_CELLS, "an instance of models.cell.Cell", _is_cell)


def _extend(group: str, registry: dict[str, Entry], kind: str, fits: Callable[[object], TypeGuard[Entry]]) -> None:
    for point in entry_points(group=group):
        declared = f"{point.name} = {point.value!r} in {group}"
        entry = _load(point, declared)
        if not fits(entry):
            raise UserError(f"{declared} must be {kind}, but it is {entry!r}")
        if registry.setdefault(point.name, entry) is not entry:
            raise UserError(f"{declared} must bear a name of its own, but {point.name!r} is taken")


def _load(point: EntryPoint, declared: str) -> object:
    try:
        return point.load()
    except Exception as error:
        # An import runs code that is not ours.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{declared} must be there to be imported, but that fails: {reason}") from error


def _is_task(entry: object) -> TypeGuard[type[Task]]:
    return isinstance(entry, type) and issubclass(entry, Task)


def _is_dataset(entry: object) -> TypeGuard[type[Dataset]]:
    return isinstance(entry, type) and issubclass(entry, Dataset)


def _is_cell(entry: object) -> TypeGuard[Cell]:
    return isinstance(entry, Cell)
