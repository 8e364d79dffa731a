"""Copy with delimiter: ten symbols of eight kinds, to be copied after a long blank and a delimiter."""

from __future__ import annotations

from tasks.recall import Recall


class CopyDelimiter(Recall):
    """Ten symbols of eight kinds are to be recalled at the ten steps that follow a delimiter.

    As ``Recall``, with the delimiter as the go sign, N + 1 steps before the end, one step before the first symbol is
    said again: of T steps ``T - 21`` are blank before it, and 10 after it. Whoever remembers nothing can be sure of the
    blanks and guess the rest: a loss of ``10 ln 8 / T``.

    Source: Arjovsky, Shah & Bengio 2016, copying memory problem, and the code released with it. Differs: the paper's T
    is ours less 20, so that its baseline reads 10 ln 8 / (T + 20) and its T - 1 blanks are our T - 21; the blank's code
    is 8, in theirs 0. The paper draws a training set of 100,000 sequences once; here all are fresh. The rule that fails
    a sequence, any wrong answer at any step, is ours: the paper gives cross entropies.
    """

    name = "copy_delimiter"
    source = "Arjovsky, Shah & Bengio 2016, copying memory problem"
    shortest_length = 21
    n_items = 10
    n_values = 8
    n_after = 10
    n_in = 10
    n_out = 9
