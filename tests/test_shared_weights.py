"""What docs/shared_weights.md rests on: that networks of both kinds are treated alike, and how they are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.activation import ACTIVATIONS
from reproductions import shared_weights, sharing, sharing_tables
from reproductions.flow_figure import flow_figure, relative
from reproductions.shared_weights import MARK, REPORT, figure_path
from reproductions.sharing import Case, Run, chosen_rate, critical_scale, plan, split, train
from reproductions.sharing_tables import differences, initial, outcomes, spread, swept, trained
from study.outcome import Outcome, Rung, Status
from study.training.probe import Probe
from study.training.stack import Stack

CASE = Case(task="latch", units="tanh", length=12)

every_units = pytest.mark.parametrize("units", ACTIVATIONS)


def run(seed: int, start: float, after: float, n_failed: int = 0, curve: Sequence[float] = (1.0, 0.5)) -> Run:
    def metrics(rate: float) -> dict[str, float]:
        return {"gradient/decay_rate": rate, "gradient/half_life": math.log(2) / -rate, "bound/decay_rate": 0.5}

    outcome = Outcome(
        status=Status.COMPLETE,
        dependency_length=9 if n_failed < 100 else 0,
        skill=0.0,
        diverged=False,
        n_updates=200,
        rungs=(Rung(length=12, lag=9, n_failed=n_failed, n_sequences=10_000),),
        error_flow=tuple(curve),
        metrics=metrics(after),
    )
    first = Probe(error_flow=tuple(curve), part_flow={}, metrics=metrics(start))
    return Run(seed=seed, learning_rate=0.1, start=first, outcome=outcome)


FOUND = {
    (CASE, "shared"): [run(0, -0.25, -0.125), run(1, -0.5, -0.25), run(2, -0.5, -0.125, 100, (0.0, 0.0))],
    (CASE, "untied"): [run(0, -0.25, -0.5), run(1, -0.25, -0.5), run(2, -0.25, -0.125)],
}


@pytest.mark.parametrize("task", sharing.TASKS)
def test_both_kinds_meet_the_same_sequences_and_matrices_of_the_same_spread(task: str) -> None:
    case, members = replace(CASE, task=task, units="logistic"), [(3, 0.1), (4, 0.1)]
    shared, untied = (Stack(plan(kind, case, members, n_updates=1)) for kind in ("shared", "untied"))
    (ours, _), (theirs, _) = (stack.feed.draw(7, stack.members) for stack in (shared, untied))
    assert torch.equal(ours.inputs, theirs.inputs)
    assert torch.equal(ours.targets, theirs.targets)
    assert not torch.equal(ours.inputs[0], ours.inputs[1])
    assert torch.equal(shared.yardstick.probe_batch(5).inputs, untied.yardstick.probe_batch(5).inputs)
    assert shared.weights["recurrent"].shape[1:] == (50, 50)
    assert untied.weights["recurrent"].shape[1:] == (12, 50, 50)
    for stack in (shared, untied):
        # A spectral radius of 4, and five standard errors of a standard deviation over 5000 numbers.
        assert float(stack.weights["recurrent"].std()) == pytest.approx(4 / 50**0.5, rel=0.05)


@every_units
def test_critical_scale_is_one_over_the_largest_slope(units: str) -> None:
    at = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
    ACTIVATIONS[units].function(at).sum().backward()
    assert at.grad is not None
    assert critical_scale(units) * float(at.grad.max()) == pytest.approx(1)


@every_units
def test_split_chain_starts_as_the_shared_network_and_its_first_update_parts_the_layers(units: str) -> None:
    case, members = replace(CASE, units=units), [(0, 0.1), (1, 0.1)]
    chain = split(case, plan("split", case, members, n_updates=1))
    for one, other in zip(Stack(plan("shared", case, members, n_updates=1)).probe(), chain.probe(), strict=True):
        # Single precision and other orders of summation.
        assert other.error_flow == pytest.approx(one.error_flow, rel=1e-4)
    layers = chain.weights["recurrent"]
    assert torch.equal(layers, layers[:, :1].expand_as(layers))
    chain.train(1)
    assert not torch.equal(layers[:, 1], layers[:, -1])


def test_networks_stop_when_they_have_solved_the_task_and_keep_what_they_started_from() -> None:
    stack_plan = plan("shared", CASE, [(0, 0.1), (1, 1e-9)], n_updates=400)
    expected = Stack(stack_plan).probe()
    quick, idle = train(Stack(stack_plan))
    assert quick.solved
    assert quick.outcome.n_updates == 200
    assert not idle.solved
    assert idle.outcome.n_updates == 400
    assert [quick.start, idle.start] == expected
    # Hardly moved: rounding.
    assert idle.outcome.error_flow == pytest.approx(expected[1].error_flow, rel=1e-3)


def test_learning_rate_is_chosen_by_error_and_then_by_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "N_UPDATES", {"latch": {12: 800}})
    monkeypatch.setattr(sharing, "LEARNING_RATES", {"sgd": (1e-9, 0.001, 0.1)})
    assert chosen_rate("shared", CASE) == 0.1


def test_tables_hold_medians_ranges_and_pairs() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.000 [1.000, 3.000]"
    (row,) = differences(FOUND).rows
    assert row[4:] == ("-0.250 [-0.250, 0.000]", "0.250 [0.000, 0.375]", "-")
    (row,) = differences({**FOUND, (CASE, "split"): FOUND[CASE, "untied"]}).rows
    assert row[-1] == row[-2]
    assert outcomes(FOUND).rows == [
        ("latch", "shared", "2", "-0.188 [-0.250, -0.125]", "1", "-0.125 [-0.125, -0.125]", "0.50"),
        ("latch", "untied", "3", "-0.500 [-0.500, -0.125]", "0", "-", "0.50"),
    ]
    shared, untied = trained(FOUND, "latch", 12, n_updates=400).rows
    assert shared[2:8] == ("shared", "0.1", "-0.500 [-0.500, -0.250]", "1.4", "-0.125 [-0.250, -0.125]", "5.5")
    # Wilson's interval of two of three.
    assert shared[8:] == ("0.50", "2/3 [0.21, 0.94]", "0.000", "200")
    assert untied[9].startswith("3/3")
    assert trained(FOUND, "latch", 50, n_updates=400).rows == []


def test_tables_leave_out_what_has_diverged_and_say_so() -> None:
    assert spread([math.nan, -1.0, -2.0]) == spread([-1.0, math.nan, -2.0]) == "-1.500 [-2.000, -1.000], 1 diverged"
    assert spread([math.nan]) == "-, 1 diverged"
    lost = run(3, -0.25, math.nan, 10_000)
    (row,) = outcomes({(CASE, "shared"): [lost, *FOUND[CASE, "shared"]]}).rows
    assert row[-2] == "-0.125 [-0.125, -0.125], 1 diverged"


def test_networks_that_are_trained_on_make_all_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "TASKS": ("latch",),
        "LEARNING_RATES": {"sgd": (0.1, 1e-9)},
        "SEEDS": (0, 1),
        "N_UPDATES": {"latch": {12: 800}},
        "N_SWEPT": {"latch": 300},
    }.items():
        monkeypatch.setattr(sharing_tables, name, value)
    quick, idle = swept().rows
    assert quick[:5] == ("latch", "12", "300", "sgd", "0.1")
    expected = Stack(plan("shared", CASE, [(0, 0.1), (1, 0.1)], n_updates=300))
    expected.train(300)
    assert quick[5] == spread([one.metrics["gradient/decay_rate"] for one in expected.probe()])
    assert quick[6] == quick[8] == "2/2"
    assert idle[4] == "1e-09"
    assert idle[6] == idle[8] == "0/2"


def test_figure_has_a_panel_for_each_case_and_leaves_dead_networks_out() -> None:
    assert relative([(2.0, 1.0), (0.0, 0.0), (4.0, 1.0)]) == [[1.0, 1.0], [0.5, 0.25]]
    other = replace(CASE, units="logistic")
    figure = flow_figure({**FOUND, (CASE, "split"): FOUND[CASE, "untied"], (other, "shared"): FOUND[CASE, "shared"]})
    first, second, _ = figure.axes
    assert [line.get_label() for line in first.lines] == [
        "shared weights, at initialisation",
        "shared weights, after training",
        "untied weights, at initialisation",
        "untied weights, after training",
        "split weights, after training",
    ]
    assert list(first.lines[0].get_ydata()) == [1.0, 0.5]
    assert len(second.lines) == 2


def test_command_writes_its_report_and_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {
        "TASKS": ("latch",),
        "ACTIVATIONS": {"tanh": ACTIVATIONS["tanh"]},
        "LEARNING_RATES": {"sgd": (0.1,)},
        "TRIAL_SEEDS": (100,),
        "SEEDS": (0, 1),
        "N_UPDATES": {"latch": {12: 400, 16: 400}},
        "N_SWEPT": {"latch": 10},
        "N_NETWORKS": 2,
        "REPORT": tmp_path / "report.md",
    }
    for module in (sharing, sharing_tables, shared_weights):
        for name, value in small.items():
            monkeypatch.setattr(module, name, value, raising=False)
    report = tmp_path / "report.md"
    report.write_text(f"What we say.\n{MARK}What was measured before.\n")
    assert shared_weights.main() == 0
    said, text = report.read_text(encoding="utf-8").split(MARK)
    assert said == "What we say.\n"
    assert capsys.readouterr().out == text
    assert "measured before" not in text
    # Split chains at the shorter length alone, and every network has a row.
    kinds = [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| tanh | sgd")]
    assert kinds == ["shared", "untied", "split", "shared", "untied"]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_command_refuses_a_report_without_a_place_for_tables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shared_weights, "REPORT", tmp_path / "report.md")
    (tmp_path / "report.md").write_text("What we say.\n")
    assert shared_weights.main() == 2
    assert "must have the line <!-- tables -->" in capsys.readouterr().err
    assert (tmp_path / "report.md").read_text() == "What we say.\n"


def test_report_and_figure_are_those_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    said, text = REPORT.read_text(encoding="utf-8").split(MARK)
    assert f"({figure_path().name})" in said
    assert figure_path().stat().st_size < 300_000
    for section in (differences(FOUND), outcomes(FOUND), trained(FOUND, "latch", 12, n_updates=400)):
        assert f"| {' | '.join(section.columns)} |" in text
        assert section.notes.removeprefix("Up to 400") in text
    monkeypatch.setattr("reproductions.sharing_tables.SCALES", (1.0,))
    monkeypatch.setattr("reproductions.sharing_tables.TASKS", ("temporal_order",))
    monkeypatch.setattr("reproductions.sharing_tables.ACTIVATIONS", ("tanh",))
    (row,) = initial().rows
    assert f"| {' | '.join(row)} |" in text
