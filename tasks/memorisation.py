"""Noiseless memorisation: a short string of symbols, to be recalled after a long blank."""

from __future__ import annotations

from typing import Literal

from tasks.recall import Recall
from tasks.task import require_one_of

NValues = Literal[2, 5]

N_ITEMS: dict[NValues, int] = {2: 5, 5: 10}
"""Number of symbols to recall, by the number of their kinds."""


class Memorisation(Recall):
    """Five bits, or ten symbols of five kinds, are to be recalled once a go sign has come: the string begins with it.

    As ``Recall``, with the go sign N steps before the end, at the very step at which the first symbol is said again:
    of T steps ``T - 2 N`` are blank before it.

    Source: Pascanu, Mikolov & Bengio 2013, supplement, noiseless memorisation, and the code released with it; after
    Martens & Sutskever 2011. Differs: the paper's T counts the blank steps alone, ours all steps, so that its T is
    ours less 2 N. The rule is the code's, where a wrong answer at any step fails a sequence, in the blank as well. The
    code can train on all 32 strings of five bits at once; here they are drawn.
    """

    name = "memorisation"
    source = "Pascanu et al. 2013, noiseless memorisation"
    # One blank step.
    shortest_length = 2 * N_ITEMS[2] + 1

    def __init__(self, *, n_values: NValues = 2) -> None:
        """The task with one of the alphabets of ``N_ITEMS``; raises ValueError for another."""
        require_one_of("n_values", n_values, N_ITEMS)
        self.n_items = N_ITEMS[n_values]
        self.n_values = int(n_values)
        self.n_after = self.n_items - 1
        self.shortest_length = 2 * self.n_items + 1
        self.n_in = self.n_values + 2
        self.n_out = self.n_values + 1
