"""Recording what a GPU is told to do, so that telling it again is one launch and not a hundred."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A graph of launches, the places where it finds its arguments, and what it leaves."""

    graph: torch.cuda.CUDAGraph
    arguments: tuple[Any, ...]
    results: tuple[Tensor, ...]


class Recorded:
    """A function on a GPU, launch by launch at first; recorded and repeated where arguments of the same shapes come.

    Its arguments are dataclasses of tensors and None. For arguments of the same shapes it must launch the same, may
    change tensors that stay where they are, and may not wait for the GPU. What it returned is overwritten when such
    arguments come again.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        """Nothing is recorded yet."""
        self._function = function
        self._records: dict[tuple[Any, ...], _Record | None] = {}
        # Records run one after the other: room that one needs only while it runs serves all.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's results."""
        shapes = tuple(None if one is None else (one.shape, one.dtype) for one in _tensors(arguments))
        if shapes not in self._records:
            # At a first call kernels are compiled and libraries set up, which cannot be recorded.
            self._records[shapes] = None
            return self._function(*arguments)
        record = self._records[shapes]
        if record is None:
            record = self._records[shapes] = self._record(arguments)
        for held, given in zip(_tensors(record.arguments), _tensors(arguments), strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        record.graph.replay()
        return record.results

    def _record(self, arguments: tuple[Any, ...]) -> _Record:
        held = tuple(_cloned(one) for one in arguments)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = self._function(*held)
        return _Record(graph=graph, arguments=held, results=results)


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor | None]:
    """Those that the arguments consist of; None for an argument or a part that is not given."""
    tensors: list[Tensor | None] = []
    for one in arguments:
        tensors += [None] if one is None else [getattr(one, part.name) for part in fields(one)]
    return tensors


def _cloned(argument: Any) -> Any:
    if argument is None:
        return None
    parts = {part.name: getattr(argument, part.name) for part in fields(argument)}
    return replace(argument, **{name: None if one is None else one.clone() for name, one in parts.items()})
