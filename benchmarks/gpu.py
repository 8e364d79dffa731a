"""Stacks on a GPU against torch's modules there: one of them alone, and one in each of many processes."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from benchmarks.networks import Sequence, temporal_order, update_of
from benchmarks.table import Section
from benchmarks.timing import paired
from benchmarks.updates import CELLS, stack_of
from study.training.process import prepare_process

STACK_SIZES = (1, 4, 16, 64, 256, 1024)
N_PROCESSES = 16
"""Networks trained by processes of their own that share the GPU."""

N_HIDDEN, N_SEQUENCES, LENGTH = 50, 20, 100

N_UPDATES = 20
"""Updates that are timed as one."""

CASE_S = 2.0
"""Seconds for one row of the table, and for the count of updates of many processes."""


def gpu() -> Section:
    """Updates per second of all members together, beside one network and beside 16 processes."""
    here = torch.cuda.is_available()
    if here:
        prepare_process()
    return Section(
        title=f"On a GPU: stacks, {N_HIDDEN} units, {N_SEQUENCES} sequences of {LENGTH} steps",
        command="make bench ARGS=gpu",
        columns=(
            "cell",
            "members",
            "updates/s",
            "one torch.nn module, updates/s",
            "times",
            f"{N_PROCESSES} processes, updates/s",
            "times",
        ),
        rows=[row for cell in CELLS for row in _rows(cell)] if here else [],
        notes="Updates of all members are counted."
        if here
        else "Did not run: this machine has no NVIDIA GPU. The command above fills the table on one that has.",
    )


def _rows(cell: str) -> list[tuple[str, ...]]:
    shared = _many(cell)
    rows: list[tuple[str, ...]] = []
    for n_members in STACK_SIZES:
        stack = stack_of(
            cell, n_members=n_members, n_hidden=N_HIDDEN, n_sequences=N_SEQUENCES, length=LENGTH, device="cuda"
        )
        update = _update(cell)

        def theirs(update: Any = update) -> None:
            for _ in range(N_UPDATES):
                update()
            torch.cuda.synchronize()

        def ours(stack: Any = stack) -> None:
            stack.train(N_UPDATES)
            torch.cuda.synchronize()

        their_s, our_s = paired(theirs, ours, CASE_S)
        alone, together = N_UPDATES / their_s, n_members * N_UPDATES / our_s
        rates = (f"{together:.0f}", f"{alone:.0f}", f"{together / alone:.1f}", f"{shared:.0f}")
        rows.append((cell, str(n_members), *rates, f"{together / shared:.1f}"))
    return rows


def _update(cell: str) -> Any:
    _, task = temporal_order()
    return update_of(Sequence(cell, task.n_in, N_HIDDEN), task, N_HIDDEN, N_SEQUENCES, LENGTH, device="cuda")


def _many(cell: str) -> float:
    """Updates per second of networks in processes of their own, together."""
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(N_PROCESSES), context.SimpleQueue()
    processes = [context.Process(target=_count, args=(cell, barrier, counts)) for _ in range(N_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode != 0]
    if failed:
        raise RuntimeError(f"{N_PROCESSES} processes should share the GPU, but {len(failed)} ended with {failed}")
    return sum(counts.get() for _ in processes)


def _count(cell: str, barrier: Barrier, counts: Any) -> None:
    """Put the number of updates per second of one process among others."""
    prepare_process()
    update = _update(cell)
    for _ in range(N_UPDATES):
        update()
    torch.cuda.synchronize()
    barrier.wait()
    began, n_updates = time.perf_counter(), 0
    while time.perf_counter() - began < CASE_S:
        for _ in range(N_UPDATES):
            update()
        torch.cuda.synchronize()
        n_updates += N_UPDATES
    counts.put(n_updates / (time.perf_counter() - began))
