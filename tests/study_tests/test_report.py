"""Queries: pure functions of records, and data that JSON can carry."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import pytest

from study.errors import UserError
from study.query import best, best_by_model, find_trial, outlined
from study.report import csv_text, find_rung, flat, row
from study_tests.report_book import MODELS, RECORDS, on_data


def test_best_ranks_by_value_then_completeness_then_order_and_leaves_out_what_measured_nothing() -> None:
    assert [(one.key.model, one.key.number) for one in best(RECORDS)] == [
        ("lstm", 0),
        ("tanh_elman", 2),
        ("tanh_elman", 3),
        ("tanh_elman", 1),
        ("tanh_elman", 0),
    ]
    assert [one.key.number for one in best(RECORDS, model="tanh_elman", top=2)] == [2, 3]
    assert [one.key.model for one in best(RECORDS, min_length=9)] == ["lstm"]
    assert best(RECORDS, min_length=17) == []


def test_best_by_model_names_every_model() -> None:
    found = best_by_model(RECORDS, [*MODELS, "gru"])
    assert [None if one is None else one.key.number for one in found.values()] == [2, 0, None]


def test_outlined_leaves_the_best_of_each_model_whole() -> None:
    for records in (RECORDS, RECORDS[::-1]):
        found = outlined(records)
        assert best_by_model(found, MODELS) == best_by_model(records, MODELS)
        assert [(one.key, one.parameters, one.status) for one in found] == [
            (one.key, one.parameters, one.status) for one in records
        ]
        assert [one.key.number for one in found if one.outcome and one.outcome.metrics] == [
            one.key.number for one in records if one in best_by_model(records, MODELS).values()
        ]


@pytest.mark.parametrize("text", ["7", "gru/1", "lstm/x", "lstm/1", "lstm/-1", "lstm/", ""])
def test_find_trial_refuses_what_names_none(text: str) -> None:
    with pytest.raises(UserError, match=r"MODEL/NUMBER|numbered from 0 to 0"):
        find_trial(RECORDS, MODELS, text)


def test_find_trial_needs_no_model_where_there_is_one() -> None:
    assert find_trial(RECORDS, ["lstm"], "0") is RECORDS[-1]
    assert find_trial(RECORDS, MODELS, "tanh_elman/4") is RECORDS[4]


def test_rows_are_plain_json_without_non_finite_numbers() -> None:
    for one in RECORDS:
        described = row(one, "temporal_order", "elman_tanh")
        assert json.loads(json.dumps(described, allow_nan=False)) == described
    complete = row(RECORDS[0], "temporal_order", "elman_tanh")
    assert complete["value"] == 8.25
    assert complete["error"] == {
        "length": 10,
        "lag": 8,
        "n_failed": 2,
        "n_sequences": 1000,
        "error": 0.002,
        "interval": [pytest.approx(0.00055, abs=1e-5), pytest.approx(0.00726, abs=1e-5)],
        "solved": True,
        "confirmed": True,
    }
    assert complete["metrics"] == {"gradient/decay_rate": -0.1, "gradient/half_life": "inf", "bound/vanishing": 1.0}
    assert complete["bound"] == "the bound predicted vanishing, measured: vanishing"
    assert row(RECORDS[4], "temporal_order", "elman_tanh")["reason"] == "Traceback: boom"


def test_a_row_says_whether_the_error_is_a_confirmed_one() -> None:
    outcome = RECORDS[0].outcome
    assert outcome is not None
    described = row(replace(RECORDS[0], outcome=replace(outcome, confirmed=None)), "temporal_order", "elman_tanh")
    error = described["error"]
    assert isinstance(error, dict)
    assert (error["length"], error["n_failed"], error["confirmed"]) == (10, outcome.rungs[0].n_failed, False)


def test_flat_joins_names_and_leaves_the_ladder_out() -> None:
    columns = flat(row(RECORDS[0], "temporal_order", "elman_tanh"))
    assert columns["parameters.learning_rate"] == 0.1
    assert (columns["error.error"], columns["error.solved"]) == (0.002, True)
    assert (columns["error.low"], columns["error.high"]) == pytest.approx((0.00055, 0.00726), abs=1e-5)
    assert not [name for name, value in columns.items() if isinstance(value, list | dict)]


def test_csv_has_the_same_columns_whichever_trial_comes_first() -> None:
    rows = [row(one, "temporal_order", "elman_tanh") for one in RECORDS]
    there, back = csv_text(rows).splitlines(), csv_text(rows[::-1]).splitlines()
    assert there[0] == back[0]
    assert sorted(there[1:]) == sorted(back[1:])
    read = list(csv.DictReader(there))
    assert [line["bound"] for line in read[:1]] == ["the bound predicted vanishing, measured: vanishing"]
    assert [line["number"] for line in read] == ["0", "1", "2", "3", "4", "5", "0"]
    assert (read[0]["error.low"], read[5]["error.low"]) == (str(rows[0]["error"]["interval"][0]), "")  # type: ignore[index, call-overload]


def test_trials_on_data_are_ranked_and_shown_by_their_loss() -> None:
    records = [on_data(0, math.log(4)), on_data(1, math.log(2)), on_data(2, math.inf)]
    assert [one.key.number for one in best(records)] == [1, 0, 2]
    described = row(records[1], "text", "lstm")
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["value"] == pytest.approx(2 / 3)
    error = described["error"]
    assert isinstance(error, dict)
    assert error["loss"] == {
        "mean": pytest.approx(math.log(2)),
        "standard_error": 0.01,
        "interval": pytest.approx([math.log(2) - 0.0196, math.log(2) + 0.0196], abs=1e-5),
        "bits": pytest.approx(1),
    }
    assert "solved" not in error
    diverged = row(records[2], "text", "lstm")
    assert json.loads(json.dumps(diverged, allow_nan=False)) == diverged
    line = next(csv.DictReader(csv_text([described]).splitlines()))
    assert float(line["error.loss.bits"]) == pytest.approx(1)
    assert float(line["error.loss.high"]) > float(line["error.loss.mean"]) > float(line["error.loss.low"])


def test_find_rung_is_the_rung_that_the_row_was_made_of() -> None:
    for one in (RECORDS[0], on_data(0, 1.5), on_data(1, math.inf)):
        assert one.outcome is not None
        assert find_rung(row(one, "text", "lstm")) == one.outcome.confirmed
    assert find_rung(row(RECORDS[5], "text", "lstm")) is None
