"""Recording what a GPU is told to do, so that telling it again is one launch and not a hundred."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A graph of launches, the places where it finds its arguments, and what it leaves."""

    graph: torch.cuda.CUDAGraph
    arguments: tuple[Any, ...]
    results: dict[str, Tensor]


class Recorded:
    """A function on a GPU, launch by launch at first; recorded and repeated where arguments of the same shapes come.

    Its arguments are dataclasses of tensors, or None, and options. For the same shapes and options it must launch the
    same, and may change tensors that stay where they are. One that waits for the GPU, or sends it something, cannot be
    recorded: it warns once and goes on launch by launch. What was returned is overwritten when such arguments come
    again.
    """

    def __init__(self, function: Callable[..., dict[str, Tensor]]) -> None:
        """Nothing is recorded yet."""
        self._function = function
        self._records: dict[tuple[Any, ...], _Record | None] = {}
        self._recordable = True
        # Records run one after the other: room that one needs only while it runs serves all.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *arguments: Any, **options: bool) -> dict[str, Tensor]:
        """The function's results, in a dictionary that is the caller's."""
        shapes = tuple(None if one is None else (one.shape, one.dtype) for one in _tensors(arguments))
        key = (shapes, *options.items())
        if key not in self._records:
            # At a first call kernels are compiled and libraries set up, which cannot be recorded.
            self._records[key] = None
            return self._function(*arguments, **options)
        if self._records[key] is None and self._recordable:
            self._records[key] = self._record(arguments, options)
        record = self._records[key]
        if record is None:
            return self._function(*arguments, **options)
        for held, given in zip(_tensors(record.arguments), _tensors(arguments), strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        record.graph.replay()
        return dict(record.results)

    def _record(self, arguments: tuple[Any, ...], options: dict[str, bool]) -> _Record | None:
        held = tuple(_cloned(one) for one in arguments)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the GPU meanwhile.
            with _uncollected(), torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = self._function(*held, **options)
        except RuntimeError as error:
            self._recordable = False
            reason = str(error).partition("\n")[0]
            warnings.warn(f"training on a GPU will be slower: an update cannot be recorded ({reason})", stacklevel=2)
            return None
        return _Record(graph=graph, arguments=held, results=results)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: it could free another record, which may not happen during a recording."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
