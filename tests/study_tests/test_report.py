"""Queries and the answer: pure functions of records, and data that JSON can carry."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from study.console import rung_line
from study.errors import UserError
from study.grid import grid_points
from study.outcome import Loss, Outcome, Rung, Status, TrialKey, failed_outcome
from study.query import best, best_by_model, find_trial
from study.record import TrialRecord
from study.report import answers, csv_text, find_rung, flat, rates, row
from study.study_file import load_spec, parse_spec
from study.tables import answer, answer_table, rates_table, rows_table

MODELS = ["tanh_elman", "lstm"]


def record(
    model: str, number: int, length: int = 0, skill: float = 0.0, status: Status = Status.COMPLETE
) -> TrialRecord:
    rungs = (
        Rung(length=10, lag=8, n_failed=0 if length else 400, n_sequences=1000),
        Rung(length=20, lag=16, n_failed=300, n_sequences=1000),
    )
    metrics = {"gradient/decay_rate": -0.1, "gradient/half_life": math.inf, "bound/vanishing": 1.0}
    outcome = failed_outcome("Traceback: boom")
    if status is not Status.FAILED:
        outcome = Outcome(
            status=status,
            dependency_length=length,
            skill=skill,
            diverged=False,
            n_updates=100,
            rungs=rungs[: 2 if length else 1],
            confirmed=replace(rungs[0], n_failed=2 if length else 410),
            metrics=metrics,
        )
    return TrialRecord(
        key=TrialKey(study="demo", model=model, number=number),
        parameters={"learning_rate": 0.1, "optimiser": "sgd", "clip_norm": math.inf},
        seed=7,
        status=status,
        outcome=outcome,
        run_id="f" * 32,
    )


def running(model: str, number: int) -> TrialRecord:
    open_trial = record(model, number)
    return TrialRecord(
        key=open_trial.key, parameters={}, seed=7, status=Status.RUNNING, outcome=None, run_id=open_trial.run_id
    )


RECORDS = [
    record("tanh_elman", 0, 8, 0.25),
    record("tanh_elman", 1, 8, 0.5, Status.PRUNED),
    record("tanh_elman", 2, 8, 0.5),
    record("tanh_elman", 3, 8, 0.5),
    record("tanh_elman", 4, status=Status.FAILED),
    running("tanh_elman", 5),
    record("lstm", 0, 16, 0.0),
]


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


def test_an_error_that_was_not_confirmed_below_1_percent_is_called_unsolved() -> None:
    outcome = RECORDS[0].outcome
    assert outcome is not None
    assert outcome.confirmed is not None
    unlucky = replace(RECORDS[0], outcome=replace(outcome, confirmed=replace(outcome.confirmed, n_failed=12)))
    described = row(unlucky, "temporal_order", "elman_tanh")
    error, ladder = described["error"], described["ladder"]
    assert isinstance(error, dict)
    assert isinstance(ladder, list)
    assert (error["error"], error["solved"]) == (0.012, False)
    assert [one["solved"] for one in ladder if isinstance(one, dict)] == [True, False]
    plan, console = load_spec("demo").plan("cpu"), Console(width=120)
    with console.capture() as captured:
        console.print(answer_table(plan, answers(plan, [unlucky])))
        console.print(rows_table([described]))
    assert " ".join(captured.get().split()).count("8 10 unsolved 1.20 (") == 2


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


def on_data(number: int, full: float) -> TrialRecord:
    """A trial whose losses at contexts 0 and 8 are ln 8 and ``full``."""
    lag_trial = record("lstm", number)
    rungs = tuple(
        Rung(length=at, lag=at, n_failed=30, n_sequences=100, loss=Loss(mean=loss, standard_error=0.01))
        for at, loss in ((0, math.log(8)), (8, full))
    )
    assert lag_trial.outcome is not None
    skill = max(0.0, 1 - full / math.log(8))
    outcome = replace(lag_trial.outcome, dependency_length=8, skill=skill, rungs=rungs, confirmed=rungs[-1])
    return replace(lag_trial, outcome=outcome)


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


def test_tables_show_nats_and_bits_only_where_there_is_data() -> None:
    plan = load_spec("demo").plan("cpu")
    data = on_data(0, math.log(2))
    console = Console(width=160)
    with console.capture() as captured:
        console.print(answer_table(plan, answers(plan, [data])))
        console.print(rows_table([row(one, "text", "lstm") for one in (data, RECORDS[0])]))
    shown = captured.get().splitlines()
    assert "How long a context is used?" in shown[0]
    lines = [" ".join(line.split()) for line in shown]
    assert [line for line in lines if line.startswith("lstm 8 8 0.693 (0.674 to 0.713) 1.000 30.00 (21.89 to 39.58)")]
    assert [line for line in lines if line.startswith("demo tanh_elman/0 complete 8 10 - - 0.20")]
    assert rung_line(data.outcome.rungs[1]) == (  # type: ignore[union-attr]
        "context     8  loss 0.693 (0.674 to 0.713) nats, 1.000 bits  error 30.00 (21.89 to 39.58) %"
    )


def test_answers_stand_in_the_order_of_the_study_and_say_where_there_is_none() -> None:
    plan = load_spec("demo").plan("cpu")
    found = answers(plan, [*RECORDS, record("rectifier_elman", 0, skill=0.25)])
    assert [answer.model for answer in found] == ["logistic_elman", "tanh_elman", "rectifier_elman", "lstm"]
    assert [answer.dependency_length for answer in found] == [0, 8, 0, 16]
    assert found[0].record is None
    assert math.isnan(found[0].decay_rate)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(answer_table(plan, found))
        console.print(rows_table([row(one, "temporal_order", "lstm") for one in RECORDS]))
    shown = captured.get()
    assert "no trial ended" in shown
    assert "0.20 (0.05 to 0.73)" in shown
    assert "10 unsolved" in shown
    assert "no decay" in shown
    assert "learning_rate=0.1" in shown


GRID = """
name: grid
task: {name: temporal_order}
ladder: [10, 20]
training: {lengths: 10, n_updates: 1000}
search: {sampler: grid, n_trials: 4}
models: {tanh: {cell: elman_tanh}}
space: {init: sparse, init_scale: 1, optimiser: sgd, learning_rate: {choices: [0.1, 0.01]}, dropout: none,
        omega_weight: 0}
"""


def replicate(number: int, learning_rate: float, n_updates: int, *, solved: bool, length: int = 8) -> TrialRecord:
    """A trial of that grid with a dependency length, which fails at the last rung or not at all."""
    spec = parse_spec(GRID)
    plan = spec.plan("cpu")
    outcome = record("tanh", number, length).outcome
    assert outcome is not None
    top = replace(outcome.rungs[-1], n_failed=9 if solved else 10)
    return TrialRecord(
        key=TrialKey(study="grid", model="tanh", number=number),
        parameters={**grid_points("elman_tanh", plan.model("tanh").space)[0], "learning_rate": learning_rate},
        seed=number,
        status=Status.COMPLETE,
        outcome=replace(outcome, n_updates=n_updates, rungs=(outcome.rungs[0], top)),
        run_id=None,
    )


def test_rates_count_the_replicates_of_every_point_that_solve_the_whole_ladder() -> None:
    plan = parse_spec(GRID).plan("cpu")
    records = [
        replicate(0, 0.1, 700, solved=True, length=16),
        replicate(1, 0.01, 1000, solved=False),
        replicate(2, 0.1, 300, solved=True, length=16),
        replicate(3, 0.1, 1000, solved=False),
    ]
    fast, slow = rates(plan, records)
    assert (fast.chosen, fast.lengths, fast.updates) == ({"learning_rate": 0.1}, (8, 16, 16), (300, 700))
    assert (slow.chosen, slow.lengths, slow.updates) == ({"learning_rate": 0.01}, (8,), ())
    # Wilson's interval of 2 in 3, by another program.
    assert fast.interval == pytest.approx((0.20766, 0.93851), abs=1e-5)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(answer(plan, records))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "tanh learning_rate=0.1 16 (8 to 16) 2 of 3 67 (21 to 94) 500 (300 to 700)" in lines
    assert "tanh learning_rate=0.01 8 (8 to 8) 0 of 1 0 (0 to 79) -" in lines


def test_rates_give_no_rate_where_replicates_were_pruned() -> None:
    plan = parse_spec(GRID).plan("cpu")
    cut = replicate(1, 0.1, 600, solved=False)
    assert cut.outcome is not None
    records = [
        replicate(0, 0.1, 700, solved=True, length=16),
        replace(cut, outcome=replace(cut.outcome, status=Status.PRUNED)),
        replicate(2, 0.1, 1000, solved=False),
        replicate(3, 0.01, 1000, solved=False),
    ]
    fast, slow = rates(plan, records)
    assert (fast.n_trials, fast.n_pruned, fast.interval) == (3, 1, None)
    assert (slow.n_trials, slow.n_pruned) == (1, 0)
    assert slow.interval is not None
    console = Console(width=120)
    with console.capture() as captured:
        console.print(answer(plan, records))
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "tanh learning_rate=0.1 8 (8 to 16) 1 of 3, 1 pruned - 700 (700 to 700)" in lines
    assert "tanh learning_rate=0.01 8 (8 to 8) 0 of 1 0 (0 to 79) -" in lines


def test_rates_leave_out_what_is_no_replicate_and_what_has_measured_nothing() -> None:
    plan = parse_spec(GRID).plan("cpu")
    broken = replace(replicate(1, 0.1, 5, solved=False), outcome=failed_outcome("Traceback: boom"))
    open_trial = replace(replicate(2, 0.1, 5, solved=True), outcome=None, status=Status.RUNNING)
    assert [one.n_trials for one in rates(plan, [replicate(0, 0.1, 5, solved=True), broken, open_trial])] == [1]
    assert rates(load_spec("demo").plan("cpu"), RECORDS) == []


def lines_of(shown: RenderableType, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().splitlines()


def test_replicates_on_data_are_answered_by_the_spread_of_their_losses_before_the_best_of_them() -> None:
    plan = parse_spec(GRID.replace("{choices: [0.1, 0.01]}", "0.1")).plan("cpu")
    records = [
        replace(replicate(number, 0.1, 5, solved=True), outcome=on_data(number, loss).outcome)
        for number, loss in enumerate((1.5, 0.5, 0.75))
    ]
    (found,) = rates(plan, records)
    assert (found.losses, found.updates) == ((0.5, 0.75, 1.5), ())
    lines = [" ".join(line.split()) for line in lines_of(answer(plan, records), 120)]
    spread = lines.index("tanh 0.750 (0.500 to 1.500) 8 (8 to 8) 3")
    best = next(k for k, line in enumerate(lines) if line.startswith("tanh 8 8 0.500"))
    assert spread < best
    assert not [line for line in lines if "point" in line]


def test_a_row_that_is_not_confirmed_is_marked_and_the_mark_explained() -> None:
    outcome = RECORDS[0].outcome
    assert outcome is not None
    other = replace(RECORDS[0], outcome=replace(outcome, confirmed=None))
    sure, unsure = (row(one, "temporal_order", "elman_tanh") for one in (RECORDS[0], other))
    lines = lines_of(rows_table([sure, unsure]), 120)
    marked = [line for line in lines if "*" in line]
    assert [line.split()[1] for line in marked] == ["tanh_elman/0", "not"]
    assert marked[0].rstrip().endswith("(0.00 to 0.38)*")
    assert "*" not in "".join(lines_of(rows_table([sure]), 120))


def test_tables_of_data_sets_keep_names_numbers_and_titles_at_80_columns() -> None:
    plan = load_spec("demo").plan("cpu")
    data = replace(on_data(3, math.log(2)), key=TrialKey(study="demo", model="rectifier_elman", number=3))
    best, trials = answer_table(plan, answers(plan, [data])), rows_table([row(data, "text", "lstm")])
    for shown, title, name in (
        (best, "How long a context is used? temporal_order, best in 24 trials per model", ["rectifier_elman"]),
        (trials, "trials", ["demo", "rectifier_elman/3"]),
    ):
        lines = lines_of(shown, 80)
        assert lines[0].rstrip() == title
        assert max(map(len, lines)) <= 80
        assert "…" not in "".join(lines)
        at = next(k for k, line in enumerate(lines) if " 30.00 " in line)
        assert lines[at].split()[0] == name[0]
        assert "0.693" in lines[at]
        assert lines[at + 1].split()[: len(name) - 1] == name[1:]
        assert "(0.674 to 0.713)" in lines[at + 1]
        assert "(21.89 to 39.58)" in lines[at + 1]


def test_rates_keep_names_and_numbers_at_80_columns() -> None:
    plan = parse_spec(GRID).plan("cpu")
    cut = replicate(1, 0.1, 600, solved=False)
    assert cut.outcome is not None
    pruned = replace(cut, outcome=replace(cut.outcome, status=Status.PRUNED))
    records = [replicate(0, 0.1, 700, solved=True), pruned, replicate(2, 0.01, 700, solved=True)]
    lines = lines_of(rates_table(plan, rates(plan, records)), 80)
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert ["tanh", "learning_rate=0.1", "8", "1", "of", "2,", "-", "700"] in [line.split() for line in lines]
    assert ["(8", "to", "8)", "1", "pruned", "(700", "to", "700)"] in [line.split() for line in lines]
