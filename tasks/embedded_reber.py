"""Embedded Reber grammar: strings of a small grammar in which the second-last symbol repeats the second."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tasks.classification import Classification
from tasks.draw import Draws
from tasks.readout import CERTAIN, LogisticRanked
from tasks.task import Batch

SYMBOLS = "BTPSXVE"

ARCS: tuple[dict[str, int], ...] = (
    {"B": 1},
    {"T": 2, "P": 2},
    {"B": 3},
    {"T": 4, "P": 5},
    {"S": 4, "X": 6},
    {"T": 5, "V": 7},
    {"X": 5, "S": 8},
    {"P": 6, "V": 8},
    {"E": 9},
    {"T": 10, "P": 10},
    {"E": 11},
)
"""Where each symbol leads from each node. Nodes 3 to 8 are the Reber grammar; node 9 takes the second symbol again."""

SECOND, INNER, INNER_END, SECOND_LAST, LAST = 2, 3, 8, 9, 10

N_CHOICES = INNER_END - INNER
"""Number of the inner string's nodes with a choice, from ``INNER`` on: each has two arcs, equally likely."""

PROBABILITIES = torch.tensor([[(symbol in arcs) / len(arcs) for symbol in SYMBOLS] for arcs in ARCS])
"""Probability of each symbol at each node, ``[11, 7]``."""

_PAIRS = [arc for arcs in ARCS[INNER:INNER_END] for arc in arcs.items()]
SAYS = torch.tensor([SYMBOLS.index(symbol) for symbol, _ in _PAIRS])
LEADS = torch.tensor([node - INNER for _, node in _PAIRS])
"""Symbol, and node it leads to (counted from ``INNER``), of the inner arcs, two by two."""

FIRST_ARCS = 2 * torch.arange(N_CHOICES)
"""The first of the two arcs of each inner node with a choice."""


class EmbeddedReber(Classification):
    """The next symbol of a string B c B ... E c E is predicted, c one of T and P, the inner string a Reber string.

    A sequence of T steps is a string of T + 1 symbols, of which the network sees all but the last. Strings are those of
    ``ARCS`` where of two arcs either is taken with probability 1/2, given their length: each one has the probability
    ``2^-n / w(T)``, n its number of choices and w(T) the sum over all strings of that length. Codes are places in
    ``SYMBOLS``. Targets are the grammar's probabilities of the next symbol, 1, or 1/2 for each of two. A sequence is
    failed unless at all T steps every legal symbol's output is larger than every other's; the loss is half the squared
    error of logistic units. ``min_lag`` is that of the second-last symbol, which repeats the second.

    Source: Hochreiter & Schmidhuber 1997, task 1; the grammar after Reber 1967 and Cleeremans, Servan-Schreiber &
    McClelland 1989. Differs: there strings of all lengths come as the grammar has them, here all of one length, exactly
    T + 1; there the target is the symbol that came, here its probability by the grammar, which is what the former is on
    average over all lengths: given one length, a network that counts would learn which of two legal symbols leads to an
    end in time, and would be failed for it. There 256 strings are learnt and 256 others are tested as well, here all
    are fresh. Errors there are summed over steps, here averaged. The 9 steps that the paper has as its shortest lag are
    the symbols of the shortest string, in which the lag as we count is 5: T = 8.
    """

    name = "embedded_reber"
    source = "Hochreiter & Schmidhuber 1997, task 1"
    # B T B T X S E T, then E.
    shortest_length = 8
    symbolic = True
    n_in = len(SYMBOLS)
    n_out = len(SYMBOLS)
    _readout = LogisticRanked()

    def sample(self, draws: Draws, length: int) -> Batch:
        """Codes ``[T, B]`` and probabilities of the next symbol ``[T, B, 7]``; raises ValueError if T is too short."""
        self._require(length)
        second = draws.integers(0, 2, 1) + SYMBOLS.index("T")
        symbols, nodes = _draw_inner(draws, length - 5)

        def every(value: int) -> Tensor:
            return torch.full_like(second, value)

        begin, end = every(SYMBOLS.index("B")), every(SYMBOLS.index("E"))
        inputs = torch.cat((begin, second, begin, symbols, end, second))
        reached = torch.cat((every(1), every(SECOND), every(INNER), nodes, every(SECOND_LAST), every(LAST)))
        return Batch(inputs=inputs, targets=_legal(reached, second))

    def min_lag(self, length: int) -> int:
        """``T - 3``: from step 1 to step T - 2, where the second-last symbol of T + 1 is predicted."""
        return length - 3

    def chance_error(self) -> float:
        """1, the limit for long sequences: no order of outputs per step suits a share of strings that stays above 0."""
        return 1.0

    def oracle(self, batch: Batch) -> Tensor:
        """Raw outputs of the legal next symbols' probabilities, following the arcs: ``[T, B, 7]``."""
        node = torch.zeros_like(batch.inputs[..., 0, :])
        table = torch.tensor([[arcs.get(symbol, 0) for symbol in SYMBOLS] for arcs in ARCS], device=node.device)
        reached = []
        for symbol in batch.inputs.unbind(-2):
            node = table[node, symbol]
            reached.append(node)
        return _legal(torch.stack(reached, dim=-2), batch.inputs[..., 1:2, :]).logit().clamp(-CERTAIN, CERTAIN)


def _legal(reached: Tensor, second: Tensor) -> Tensor:
    """The grammar's probability of each next symbol, ``[..., T, B, 7]``, at nodes ``[..., T, B]``.

    ``second`` is the second symbol, ``[..., 1, B]``, which comes again at ``SECOND_LAST``.
    """
    again = one_hot(second, len(SYMBOLS)).to(PROBABILITIES.dtype)
    return torch.where(reached.unsqueeze(-1) == SECOND_LAST, again, PROBABILITIES.to(reached.device)[reached])


def _draw_inner(draws: Draws, n_steps: int) -> tuple[Tensor, Tensor]:
    """Paths of ``n_steps`` arcs from ``INNER`` to ``INNER_END``: symbols, and nodes reached, each ``[n_steps, B]``.

    A draw says for each node where a step would lead from it. The maps of successive steps are composed by doubling,
    so that paths of n steps take log2(n) rounds instead of n.
    """
    shares = _first_arc_shares(1 << (n_steps - 1).bit_length())[-n_steps:, None]
    arcs = FIRST_ARCS + (draws.uniform(n_steps)[..., None] >= shares).long()
    # Only the last step of a path that can be drawn leads to the end, whence no step leads on.
    maps = LEADS[arcs[:-1]].clamp_(max=N_CHOICES - 1)
    shift = 1
    while shift < n_steps - 1:
        maps = torch.cat((maps[:shift], maps[shift:].gather(-1, maps[:-shift])))
        shift *= 2
    nodes = torch.cat((torch.zeros_like(maps[:1, :, :1]), maps[..., :1]))
    taken = arcs.gather(-1, nodes).squeeze(-1)
    return SAYS[taken], LEADS[taken] + INNER


@lru_cache
def _first_arc_shares(n_steps: int) -> Tensor:
    """Share of the first arc of each inner node, given the number n of steps to the end, n = n_steps ... 1: ``[n, 5]``.

    With ``w_0 = 1`` at the end and 0 elsewhere, ``w_n(i) = (w_{n-1}(j) + w_{n-1}(k)) / 2`` is the probability of being
    at the end after n steps from node i, whose arcs lead to j and k; the share is ``w_{n-1}(j) / (2 w_n(i))``.
    """
    weights = [0.0] * N_CHOICES + [1.0]
    leads = LEADS.view(-1, 2).tolist()
    shares = []
    for _ in range(n_steps):
        pairs = [(weights[j], weights[k]) for j, k in leads]
        # Nodes from which the end cannot be reached in time are never visited.
        shares.append([first / (first + second) if first + second > 0 else 0.0 for first, second in pairs])
        largest = max(first + second for first, second in pairs)
        # Scaled to a largest of 1, because long paths are too improbable for a float.
        weights = [(first + second) / largest for first, second in pairs] + [0.0]
    return torch.tensor(shares[::-1])
