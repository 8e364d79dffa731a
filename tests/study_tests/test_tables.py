"""The answer of a study: what the best trials and the replicates learned, and as tables that fit a terminal."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.console import Console

from study.console import rung_line
from study.outcome import Status, TrialKey, failed_outcome
from study.report import answers, rates, row
from study.study_file import load_spec, parse_spec
from study.tables import answer, answer_table, rates_table, rows_table
from study_tests.report_book import GRID, RECORDS, lines_of, on_data, record, replicate


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


def test_rates_give_no_rate_while_replicates_are_open_because_those_that_succeed_end_first() -> None:
    plan = parse_spec(GRID.replace("n_trials: 2", "n_trials: 16")).plan("cpu")
    failed = replace(replicate(3, 0.1, 5, solved=False), outcome=failed_outcome("Traceback: boom"))
    records = [
        *(replicate(number, 0.1, 500, solved=True, length=16) for number in range(3)),
        failed,
        replace(replicate(4, 0.1, 5, solved=True), outcome=None, status=Status.RUNNING),
        *(replicate(8 + number, 0.01, 1000, solved=False) for number in range(8)),
    ]
    fast, slow = rates(plan, records)
    assert (fast.n_trials, fast.n_open, fast.interval) == (3, 4, None)
    assert (slow.n_trials, slow.n_open) == (8, 0)
    assert slow.interval is not None
    lines = [" ".join(line.split()) for line in lines_of(answer(plan, records), 120)]
    assert "tanh learning_rate=0.1 16 (16 to 16) 3 of 3, 4 open - 500 (500 to 500)" in lines


def test_rates_leave_out_what_is_no_replicate_and_what_has_measured_nothing() -> None:
    plan = parse_spec(GRID).plan("cpu")
    broken = replace(replicate(1, 0.1, 5, solved=False), outcome=failed_outcome("Traceback: boom"))
    open_trial = replace(replicate(2, 0.1, 5, solved=True), outcome=None, status=Status.RUNNING)
    assert [one.n_trials for one in rates(plan, [replicate(0, 0.1, 5, solved=True), broken, open_trial])] == [1]
    assert rates(load_spec("demo").plan("cpu"), RECORDS) == []


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


@pytest.mark.parametrize("n_trials", [1, 2])
def test_a_single_trial_tells_nothing_of_how_often(n_trials: int) -> None:
    text = GRID.replace("{choices: [0.1, 0.01]}", "0.1").replace("n_trials: 2", f"n_trials: {n_trials}")
    shown = "".join(lines_of(answer(parse_spec(text).plan("cpu"), [replicate(0, 0.1, 5, solved=True)]), 120))
    assert "best in" in shown
    assert ("from seed to seed" in shown) == (n_trials > 1)


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
