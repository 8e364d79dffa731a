"""Embedded Reber strings against the grammar, spelt out here once more as a walk."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from tasks.embedded_reber import SYMBOLS, EmbeddedReber
from tasks.task import Batch
from tasks_tests.task_book import draws

REBER = {
    1: {"T": 2, "P": 3},
    2: {"S": 2, "X": 4},
    3: {"T": 3, "V": 5},
    4: {"X": 3, "S": 6},
    5: {"P": 4, "V": 6},
}
"""Nodes of the grammar's diagram after the first B; from node 6 an E leads out."""


def inner_strings(n_choices: int, node: int = 1) -> dict[str, float]:
    """All ways from a node to node 6 with so many choices, and their probabilities."""
    if node == 6:
        return {"": 1.0} if n_choices == 0 else {}
    if n_choices == 0:
        return {}
    return {
        symbol + rest: share / 2
        for symbol, target in REBER[node].items()
        for rest, share in inner_strings(n_choices - 1, target).items()
    }


def embedded_strings(n_symbols: int) -> dict[str, float]:
    inner = inner_strings(n_symbols - 6)
    total = sum(inner.values())
    return {f"B{c}B{word}E{c}E": share / total / 2 for c in "TP" for word, share in inner.items()}


def legal_after(prefix: str) -> set[str]:
    """Symbols that may follow a prefix of an embedded string."""
    if len(prefix) < 3:
        return [{"B"}, {"T", "P"}, {"B"}][len(prefix)]
    node = 1
    for k, symbol in enumerate(prefix[3:], start=3):
        if node == 6:
            return {prefix[1]} if k == len(prefix) - 1 else {"E"}
        node = REBER[node][symbol]
    return {"E"} if node == 6 else set(REBER[node])


def draw(n_sequences: int, length: int) -> Batch:
    return EmbeddedReber().sample(draws(n_sequences, seed=length), length)


def strings(batch: Batch) -> list[str]:
    return ["".join(SYMBOLS[code] for code in sequence) + "E" for sequence in batch.inputs.T.tolist()]


def test_shortest_strings_have_nine_symbols() -> None:
    assert set(embedded_strings(9)) == {"BTBTXSETE", "BPBTXSEPE", "BTBPVVETE", "BPBPVVEPE"}
    assert embedded_strings(8) == {}
    assert EmbeddedReber.shortest_length == 8


@pytest.mark.parametrize("length", [8, 9, 10, 13])
def test_sample_draws_each_string_of_a_length_as_often_as_the_grammar_does(length: int) -> None:
    n = 20_000
    counts = Counter(strings(draw(n, length)))
    expected = embedded_strings(length + 1)
    assert set(counts) <= set(expected)
    for string, share in expected.items():
        # Six standard errors of a binomial count.
        assert abs(counts[string] - n * share) < 6 * math.sqrt(n * share * (1 - share)), string


def test_sample_draws_strings_of_the_grammar_at_great_lengths() -> None:
    for length in (50, 2000):
        for string in strings(draw(20, length)):
            assert len(string) == length + 1
            node = 1
            for symbol in string[3:-3]:
                node = REBER[node][symbol]
            assert node == 6
            assert (string[:3], string[-3:]) in ((f"B{c}B", f"E{c}E") for c in "TP")


def test_sample_takes_the_first_choice_as_often_as_the_limit_of_long_strings_says() -> None:
    # The share of ways that end after n symbols grows as growth^n v, with growth the largest eigenvalue of the halved
    # adjacency and v its eigenvector; given a great length, node i leads to j with v_j / (2 growth v_i).
    nodes = [1, 2, 3, 4, 5]
    halved = torch.tensor([[list(REBER[i].values()).count(j) / 2 for j in nodes] for i in nodes], dtype=torch.float64)
    values, vectors = torch.linalg.eig(halved)
    largest = int(values.real.argmax())
    growth, v = float(values[largest].real), vectors[:, largest].real
    n = 20_000
    n_first = int((draw(n, 150).inputs[3] == SYMBOLS.index("T")).sum())
    share = float(v[1] / (2 * growth * v[0]))
    # Six standard errors of a binomial count.
    assert abs(n_first - n * share) < 6 * math.sqrt(n * share * (1 - share))


def test_targets_share_out_what_is_legal() -> None:
    for length in (8, 11, 40):
        batch = draw(30, length)
        for b, string in enumerate(strings(batch)):
            for t in range(length):
                legal = legal_after(string[: t + 1])
                assert string[t + 1] in legal
                expected = [(symbol in legal) / len(legal) for symbol in SYMBOLS]
                assert batch.targets[t, b].tolist() == expected


def test_failed_is_a_legal_symbol_that_is_not_among_the_most_active_at_any_step() -> None:
    task = EmbeddedReber()
    batch = draw(1, 15)
    (string,) = strings(batch)
    for t in range(15):
        for symbol in legal_after(string[: t + 1]):
            outputs = task.oracle(batch).unsqueeze(0)
            # A little less than its fellow is allowed, less than an illegal one is not.
            outputs[0, t, 0, SYMBOLS.index(symbol)] -= 1
            assert not task.failed(batch, outputs).any()
            outputs[0, t, 0, SYMBOLS.index(symbol)] = -101
            assert task.failed(batch, outputs).all()


def test_min_lag_is_five_in_the_shortest_string() -> None:
    # The second of nine symbols is seen at step 1, the second-last predicted at step 6.
    assert EmbeddedReber().min_lag(8) == 6 - 1
