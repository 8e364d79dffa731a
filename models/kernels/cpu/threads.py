"""Spreading a kernel over members and rows in as many threads as torch uses; no result depends on their number."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise, product
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Array = Tensor | NDArray[Any]
"""What compiled code takes as an array of NumPy's."""

Argument = Array | int | float


def over_members(kernel: Callable[..., None], n_members: int, *arguments: Argument) -> None:
    """Call a kernel on all members, as ``kernel(*arguments, first, last)`` for parts of them."""
    _call(kernel, arguments, [(part,) for part in _parts(n_members, torch.get_num_threads())])


def over_rows(kernel: Callable[..., None], n_members: int, n_rows: int, *arguments: Argument) -> None:
    """Call a kernel on all members and rows, as ``kernel(*arguments, first, last, top, bottom)`` for parts of them.

    Rows are parted only where there are fewer members than threads.
    """
    n_threads = torch.get_num_threads()
    members, rows = _parts(n_members, n_threads), _parts(n_rows, -(-n_threads // n_members))
    _call(kernel, arguments, list(product(members, rows)))


def _call(
    kernel: Callable[..., None], arguments: tuple[Argument, ...], parts: list[tuple[tuple[int, int], ...]]
) -> None:
    arrays = [one.numpy() if isinstance(one, Tensor) else one for one in arguments]
    calls = [[*arrays, *(end for part in parts for end in part)] for parts in parts]
    if len(calls) == 1:
        kernel(*calls[0])
        return
    futures = [_pool(len(calls)).submit(kernel, *call) for call in calls]
    # All of them, also after an error: nobody may write into arrays that their owner has given up.
    wait(futures)
    for one in futures:
        one.result()


@cache
def _parts(n: int, n_parts: int) -> tuple[tuple[int, int], ...]:
    """First and one past the last of ``n_parts`` parts of n things; fewer parts where there are fewer things."""
    ends = [n * part // min(n, n_parts) for part in range(min(n, n_parts) + 1)]
    return tuple(pairwise(ends))


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="longlag-kernel")
