"""Temporal order: which of two symbols came first, which second, and which third, long ago."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import LogisticWithin, Readout, Softmax, certain
from tasks.task import Batch, require_one_of

N_RELEVANT, N_DISTRACTORS = 2, 4

Variant = Literal["pascanu2013_code", "pascanu2013_text", "hochreiter1997"]
NSymbols = Literal[2, 3]
Criterion = Literal["pascanu2013", "hochreiter1997"]

WINDOWS: dict[Variant, dict[NSymbols, tuple[int, ...]]] = {
    "pascanu2013_code": {2: (10, 50), 3: (10, 30, 60)},
    "pascanu2013_text": {2: (10, 40), 3: (10, 30, 60)},
    "hochreiter1997": {2: (10, 50), 3: (10, 33, 66)},
}
"""Starts of the relevant symbols' windows, in hundredths of the length, by variant and number of symbols."""

WIDTH = 10
"""Width of a window, in hundredths of the length."""

READOUTS: dict[Criterion, Readout] = {"pascanu2013": Softmax(), "hochreiter1997": LogisticWithin(tolerance=0.3)}
"""Loss and rule for failing a sequence: another class is the most probable, or any logistic unit is off by 0.3."""


class TemporalOrder(Classification):
    """Two or three relevant symbols, each A or B, in a stream of distractors; the answer is their order.

    With steps counted from 0 and quotients floored, a symbol whose window starts at s hundredths of the length stands
    uniformly in ``[s T / 100, (s + 10) T / 100)``; a window that would be empty holds one step. The starts are those of
    ``WINDOWS``. All other steps carry one of the four distractors, uniformly; in the variant ``hochreiter1997`` step 0
    carries the start symbol E and step T - 1 the end symbol. Codes are A, B = 0, 1 (X, Y in that variant), distractors
    2 ... 5, start 6, end 7. The class, read at the last step, has the symbols as binary digits, the first as the
    highest: ``2 * first + second``. The first symbol must be held for at least 0.8 T steps, which sequences of fewer
    than 5 steps could not ask for; a start symbol needs a step before the first window, hence 10.

    Source: Hochreiter & Schmidhuber 1997, tasks 6a and 6b; Pascanu, Mikolov & Bengio 2013, supplement, and the code
    released with it. ``variant`` names the paper whose sequences are drawn, ``criterion`` the one whose output units,
    loss and rule for failing are used: softmax and cross entropy, or logistic units and half their squared error, which
    are applied to the raw outputs here. Differs: Pascanu's text and code name different windows for the second of two
    symbols, hence two variants, which are the same for three symbols; the code numbers the classes with the first
    symbol as the lowest digit; at a length that is no multiple of ten a window may be a step longer than in the code,
    where every window is T/10 steps, rounded down. Tasks 6a and 6b draw their lengths from 100 to 110 with windows that
    stay (10-20, 50-60; 10-20, 33-43, 66-76); here the length is exactly T and the windows are those of 100 steps,
    scaled, their upper ends left out.
    """

    name = "temporal_order"
    source = "Hochreiter & Schmidhuber 1997, tasks 6a and 6b; Pascanu et al. 2013"
    shortest_length = 5
    symbolic = True

    def __init__(
        self,
        *,
        variant: Variant = "pascanu2013_code",
        n_symbols: NSymbols = 2,
        criterion: Criterion = "pascanu2013",
    ) -> None:
        """The task with windows of ``WINDOWS`` and a rule of ``READOUTS``; raises ValueError for others."""
        require_one_of("variant", variant, WINDOWS)
        require_one_of("n_symbols", n_symbols, WINDOWS[variant])
        require_one_of("criterion", criterion, READOUTS)
        self._starts = WINDOWS[variant][n_symbols]
        self._readout = READOUTS[criterion]
        self._framed = variant == "hochreiter1997"
        if self._framed:
            self.shortest_length = 10
        self.n_in = N_RELEVANT + N_DISTRACTORS + (2 if self._framed else 0)
        self.n_out = N_RELEVANT ** len(self._starts)

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and classes ``[1, B]``; raises ValueError if the length is too short."""
        self._require(length)
        inputs = draws.integers(N_RELEVANT, N_RELEVANT + N_DISTRACTORS, length)
        symbols = draws.integers(0, N_RELEVANT, len(self._starts))
        positions = torch.cat([draws.integers(*_window(length, start), 1) for start in self._starts])
        inputs.scatter_(0, positions, symbols)
        if self._framed:
            inputs[0], inputs[-1] = self.n_in - 2, self.n_in - 1
        return Batch(inputs=inputs, targets=_class(symbols).unsqueeze(0))

    def min_lag(self, length: int) -> int:
        """``T - hi``, hi the end (exclusive) of the first window: from the latest first symbol to the last step."""
        return length - _window(length, self._starts[0])[1]

    def chance_error(self) -> float:
        """All but one of the equally likely classes: 0.75 of four, 0.875 of eight."""
        return 1 - 1 / self.n_out

    def oracle(self, batch: Batch) -> Tensor:
        """All certainty on the class that the relevant symbols make: ``[1, B, n_out]``."""
        relevant = batch.inputs < N_RELEVANT
        order = relevant.cumsum(-2)
        ranks = range(1, len(self._starts) + 1)
        symbols = torch.stack([(((order == k) & relevant) * batch.inputs).sum(-2) for k in ranks])
        return certain(_class(symbols), self.n_out).unsqueeze(-3)


def _window(length: int, start: int) -> tuple[int, int]:
    """First step and end (exclusive) of the window that starts at so many hundredths of the length."""
    low = start * length // 100
    return low, max(low + 1, (start + WIDTH) * length // 100)


def _class(symbols: Tensor) -> Tensor:
    """Number whose binary digits are the symbols along the first axis, the highest first."""
    total = symbols[0]
    for symbol in symbols[1:]:
        total = total * N_RELEVANT + symbol
    return total
