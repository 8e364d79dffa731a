"""Updates: one member of a stack against one network as a user would write it, everything of an update included."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.networks import P_KEEP, FastLoop, Loop, Sequence, temporal_order, update_of
from benchmarks.table import Section
from benchmarks.timing import paired
from study.plan import Hyperparameters, Member, StackPlan, TrainingPlan
from study.training.process import prepare_process
from study.training.stack import Stack

STACK_SIZE = 8
CELLS = ("elman_tanh", "gru", "lstm")
GRID = [
    (length, n_hidden, n_rows) for length in (100, 200) for n_hidden in (32, 64, 128, 256) for n_rows in (1, 20, 100)
]
"""Length, units and sequences of the rows that must never be slower."""

CASE_S = 2.0
"""Seconds for one row of the table."""


def stack_of(
    cell: str,
    *,
    n_members: int,
    n_hidden: int,
    n_sequences: int,
    length: int,
    dropout: str = "none",
    device: str = "cpu",
) -> Stack:
    """A stack of members with different rates, trained by gradient descent at one length."""
    task, _ = temporal_order()
    training = TrainingPlan(
        n_updates=10**6,
        batch_size=n_sequences,
        shortest=length,
        longest=length,
        batches="shared",
        report_every=10**6,
        evaluate_every=10**6,
        rungs=(),
        keep=1.0,
        ladder=(length,),
        n_interim=1000,
        n_final=10_000,
    )
    members = [
        Member(
            number=number,
            seed=number,
            hyperparameters=Hyperparameters(
                learning_rate=1e-3 / (1 + number),
                dropout=dropout,
                p_drop_input=1 - P_KEEP if dropout != "none" else 0.0,
                p_drop_recurrent=1 - P_KEEP if dropout != "none" else 0.0,
            ),
        )
        for number in range(n_members)
    ]
    return Stack(
        StackPlan(
            study="bench",
            model=cell,
            cell=cell,
            n_hidden=n_hidden,
            task=task,
            training=training,
            seed=1,
            device="cuda" if device == "cuda" else "cpu",
            members=tuple(members),
        )
    )


def updates() -> Section:
    """Milliseconds per update and member, beside torch's modules and a Python loop, with one thread and with two."""
    prepare_process()
    rows = [_row(*case, n_threads=n_threads) for n_threads in (1, 2) for case in _main_cases()]
    torch.set_num_threads(1)
    return Section(
        title="Updates: a member of a stack of 8 against one network, 50 units, 20 sequences of 100 steps",
        command="make bench ARGS=updates",
        columns=("cell", "against", "threads", "theirs, ms", "ours, ms", "times faster"),
        rows=rows,
        notes="An update is fresh sequences, forward, backward, clipping and gradient descent; ours includes the "
        "statistics of a report every 20 updates. Both run with the allocator settings of longlag's workers, which "
        "make torch's modules faster too.",
    )


def shapes() -> Section:
    """Whether a stack of 8 is slower than torch's modules anywhere on a grid of shapes."""
    prepare_process()
    rows = []
    for cell in CELLS:
        for length, n_hidden, n_rows in GRID:
            theirs, ours = _timed(cell, _module, n_hidden, n_rows, length)
            ratio = f"{theirs / ours:.2f}"
            rows.append(
                (cell, str(length), str(n_hidden), str(n_rows), f"{1e3 * theirs:.2f}", f"{1e3 * ours:.2f}", ratio)
            )
    return Section(
        title="Updates at other shapes: a member of a stack of 8 against torch's module, one thread",
        command="make bench ARGS=shapes",
        columns=("cell", "steps", "units", "sequences", "theirs, ms", "ours, ms", "times faster"),
        rows=rows,
    )


def _main_cases() -> Iterator[tuple[str, str, str]]:
    for cell in CELLS:
        yield cell, "none", "module"
        yield cell, "none", "loop"
    yield "elman_rectifier", "none", "module"
    yield "elman_tanh", "fast", "loop"
    yield "elman_rectifier", "fast", "loop"


def _row(cell: str, dropout: str, against: str, *, n_threads: int) -> tuple[str, ...]:
    torch.set_num_threads(n_threads)
    make = _module if against == "module" else _fast_loop if dropout == "fast" else _loop
    theirs, ours = _timed(cell, make, 50, 20, 100, dropout=dropout)
    name = f"{cell}, fast dropout" if dropout == "fast" else cell
    label = {"module": "torch.nn module", "loop": "Python loop"}[against]
    return name, label, str(n_threads), f"{1e3 * theirs:.2f}", f"{1e3 * ours:.2f}", f"{theirs / ours:.1f}"


Maker = Callable[[str, int, int], torch.nn.Module]
_module: Maker = Sequence
_loop: Maker = Loop
_fast_loop: Maker = FastLoop


def _timed(
    cell: str, make: Maker, n_hidden: int, n_sequences: int, length: int, *, dropout: str = "none"
) -> tuple[float, float]:
    """Seconds of an update of theirs, and of ours per member."""
    _, task = temporal_order()
    theirs = update_of(make(cell, task.n_in, n_hidden), task, n_hidden, n_sequences, length)
    stack = stack_of(
        cell, n_members=STACK_SIZE, n_hidden=n_hidden, n_sequences=n_sequences, length=length, dropout=dropout
    )
    n_updates = 20 if n_hidden * n_sequences * length <= 50 * 20 * 100 else 1
    their_s, our_s = paired(lambda: [theirs() for _ in range(n_updates)], lambda: stack.train(n_updates), CASE_S)
    return their_s / n_updates, our_s / n_updates / STACK_SIZE
