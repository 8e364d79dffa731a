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

ROOM = 2**30
"""Bytes that the arguments of all records may take together; what would need more is launched anew every time."""

Function = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A graph of launches, the places where it finds its arguments, and what it leaves."""

    graph: torch.cuda.CUDAGraph
    arguments: tuple[Any, ...]
    results: dict[str, Tensor]


class Recorder:
    """Calls a function on a GPU: twice launch by launch, then it records it and repeats the record.

    Arguments are dataclasses of tensors, or None, and options; every shape of them has a record of its own, for which
    the function must launch the same. It may change tensors that stay where they are. One that waits for the GPU, or
    sends it something, cannot be recorded: a warning says so, and it goes on launch by launch. What was returned is
    overwritten when such arguments come again.
    """

    def __init__(self) -> None:
        """Nothing is recorded yet."""
        self._n_calls: dict[tuple[Any, ...], int] = {}
        self._records: dict[tuple[Any, ...], _Record] = {}
        self._recordable, self._room = True, ROOM
        # Records run one after the other: room that one needs only while it runs serves all.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, *arguments: Any, **options: bool) -> dict[str, Tensor]:
        """The function's results, in a dictionary that is the caller's."""
        key = (*(None if one is None else (one.shape, one.dtype) for one in _tensors(arguments)), *options.items())
        n_calls = self._n_calls[key] = self._n_calls.get(key, 0) + 1
        if n_calls == 2 and self._recordable:
            # Not at the first call, at which kernels are compiled and constants sent.
            return self._watched(function, arguments, options)
        if n_calls > 2 and self._recordable and key not in self._records:
            self._record(key, function, arguments, options)
        record = self._records.get(key)
        if record is None:
            return function(*arguments, **options)
        for held, given in zip(_tensors(record.arguments), _tensors(arguments), strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        record.graph.replay()
        return dict(record.results)

    def _watched(self, function: Function, arguments: tuple[Any, ...], options: dict[str, bool]) -> dict[str, Tensor]:
        """Call the function, and see whether it can be recorded: a recording that fails can leave torch in disorder."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                results = function(*arguments, **options)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        for one in told:
            if "synchronizing CUDA operation" in str(one.message):
                self._refuse(str(one.message))
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        return results

    def _record(
        self, key: tuple[Any, ...], function: Function, arguments: tuple[Any, ...], options: dict[str, bool]
    ) -> None:
        n_bytes = sum(one.nbytes for one in _tensors(arguments) if one is not None)
        if n_bytes > self._room:
            return
        graph = torch.cuda.CUDAGraph()
        try:
            held = tuple(_cloned(one) for one in arguments)
            # A recording that fails would leave its own stream as the current one.
            with (
                _uncollected(),
                torch.cuda.stream(torch.cuda.current_stream()),
                # Other threads may use the GPU meanwhile.
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                results = function(*held, **options)
        except RuntimeError as error:
            self._refuse(str(error.__context__ or error))
            return
        self._room -= n_bytes
        self._records[key] = _Record(graph=graph, arguments=held, results=results)

    def _refuse(self, reason: str) -> None:
        if self._recordable:
            first = reason.partition("\n")[0]
            warnings.warn(f"training on a GPU will be slower: an update cannot be recorded ({first})", stacklevel=2)
        self._recordable = False


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
