"""Journal entries: the text that is written is read back to equal values; the answer of each model."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.outcome import Metric, Outcome, Rung, Status, TrialKey, failed_outcome
from study.tracking.entry import (
    CorruptError,
    Entry,
    MetricsLogged,
    ModelAnswer,
    StudyClosed,
    StudyOpened,
    TrialCard,
    TrialClosed,
    TrialInterrupted,
    TrialOpened,
    decode,
    encode,
    model_answers,
)

texts = st.text(max_size=20)
numbers = st.integers(0, 10**13)
floats = st.floats(allow_nan=False)
keys = st.builds(TrialKey, study=texts, model=texts, number=numbers)
outcomes = st.builds(
    Outcome,
    status=st.sampled_from([Status.COMPLETE, Status.PRUNED, Status.FAILED]),
    dependency_length=numbers,
    skill=floats,
    diverged=st.booleans(),
    n_updates=numbers,
    rungs=st.lists(st.builds(Rung, length=numbers, lag=numbers, n_failed=numbers, n_sequences=numbers)).map(tuple),
    error_flow=st.lists(floats, max_size=5).map(tuple),
    metrics=st.dictionaries(texts, floats, max_size=3),
    reason=texts,
)
cards = st.builds(
    TrialCard,
    key=keys,
    task=texts,
    cell=texts,
    parameters=st.dictionaries(texts, st.one_of(texts, floats, st.integers()), max_size=3),
    configuration=texts,
)
metrics = st.builds(Metric, name=texts, value=floats, update=numbers, time_ms=numbers)
answers = st.builds(ModelAnswer, model=texts, lengths=st.lists(numbers, max_size=5).map(tuple), best=outcomes)
entries = st.one_of(
    st.builds(StudyOpened, time_ms=numbers, parameters=st.dictionaries(texts, texts, max_size=3), specification=texts),
    st.builds(TrialOpened, time_ms=numbers, card=cards),
    st.builds(MetricsLogged, key=keys, metrics=st.lists(metrics, max_size=5).map(tuple)),
    st.builds(
        TrialClosed,
        time_ms=numbers,
        key=keys,
        outcome=outcomes,
        weights=st.one_of(st.none(), texts),
    ),
    st.builds(TrialInterrupted, time_ms=numbers, key=keys),
    st.builds(
        StudyClosed,
        time_ms=numbers,
        status=texts,
        answers=st.lists(answers, max_size=3).map(tuple),
        seconds=st.dictionaries(texts, st.floats(0, 1e6), max_size=3),
    ),
)


@given(entries)
def test_entry_is_one_line_that_reads_back(entry: Entry) -> None:
    line = encode(entry)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == entry


def test_entry_keeps_nan_and_infinity() -> None:
    key = TrialKey(study="s", model="m", number=0)
    values = (math.inf, -math.inf, math.nan)
    entry = MetricsLogged(key=key, metrics=tuple(Metric(name="x", value=v, update=1, time_ms=1) for v in values))
    read = decode(encode(entry))
    assert isinstance(read, MetricsLogged)
    assert str([metric.value for metric in read.metrics]) == "[inf, -inf, nan]"


@pytest.mark.parametrize(
    "line",
    [b"\n", b"\x00\x00\n", b"[]\n", b'["Nothing", {}]\n', b'["MetricsLogged", {"key": 3}]\n', b'["StudyOpened"'],
)
def test_decode_refuses_what_was_never_written(line: bytes) -> None:
    with pytest.raises(CorruptError, match="a journal entry must be a line that encode wrote"):
        decode(line)


def _outcome(status: Status, length: int, skill: float) -> Outcome:
    return Outcome(status=status, dependency_length=length, skill=skill, diverged=False, n_updates=1)


def test_model_answers_name_the_best_of_each_model() -> None:
    found = {
        ("lstm", 1): _outcome(Status.PRUNED, 40, 0.5),
        ("elman", 0): _outcome(Status.COMPLETE, 8, 0.9),
        ("elman", 1): _outcome(Status.COMPLETE, 16, 0.1),
        ("lstm", 0): _outcome(Status.COMPLETE, 40, 0.5),
        ("broken", 0): failed_outcome("out of memory"),
        ("elman", 2): failed_outcome("out of memory"),
    }
    outcomes = {TrialKey(study="s", model=model, number=number): outcome for (model, number), outcome in found.items()}
    rows = model_answers(outcomes)
    assert [(row.model, row.lengths) for row in rows] == [("lstm", (40, 40)), ("elman", (8, 16))]
    assert rows[0].best.status is Status.COMPLETE
    assert rows[1].best.dependency_length == 16
