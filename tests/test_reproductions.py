"""What docs/fast_dropout.md says of fast dropout, at a smaller size."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.table import Section
from models.activation import ACTIVATIONS
from reproductions.fast_dropout import REPORT, one_step
from reproductions.fast_dropout_summary import summary
from reproductions.moments import State, after_one_step, along_a_sequence
from reproductions.regulariser import TASKS, compare


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("p_drop", [0.2, 0.8])
def test_one_step_leaves_little_error_where_the_plain_network_has_much(name: str, p_drop: float) -> None:
    errors = after_one_step(name, p_drop, n_draws=20_000)
    # The sampled means have an error of 0.007 standard deviations.
    assert errors.mean < 0.04
    assert errors.mean < 0.4 * errors.plain_mean
    assert errors.variance_ratio == pytest.approx(1, abs=0.05)


def test_errors_grow_along_a_sequence_where_noise_does_not_die_out() -> None:
    fading, staying = (along_a_sequence("rectifier", 0.2, held=False, radius=r, n_draws=2000) for r in (1.0, 2.0))
    assert math.isnan(fading[0].mean)
    assert fading[49].mean < 0.05
    assert staying[49].mean > 5 * staying[9].mean > 0.25


def test_one_mask_for_all_steps_is_not_what_fast_dropout_takes_it_for() -> None:
    new, one = (along_a_sequence("rectifier", 0.2, held=held, n_draws=2000)[9] for held in (False, True))
    assert one.mean > 2 * new.mean
    assert one.variance_ratio < 0.9 < new.variance_ratio


def test_errors_are_those_of_a_sample_made_by_hand() -> None:
    sampled = torch.tensor([[1.0, 0.0], [3.0, 2.0], [1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    mean, variance = torch.tensor([2.5, 1.0]).double(), torch.tensor([2.0, 2.0]).double()
    errors = State(sampled=sampled, mean=mean, variance=variance, plain=torch.tensor([2.0, 2.0]).double()).errors()
    # Means 2 and 1, variances 4/3 each, no correlation.
    assert errors.mean == pytest.approx(math.sqrt(0.125 / (4 / 3)))
    assert errors.plain_mean == pytest.approx(math.sqrt(0.5 / (4 / 3)))
    assert errors.variance_ratio == pytest.approx(1.5)
    assert errors.correlation == pytest.approx(0)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_regularisers_gradient_is_its_numerical_one_and_points_as_the_sampled_one(name: str, task: str) -> None:
    found = compare(name, 0.5, task, n_draws=20, n_copies=50)
    # Central differences: rounding over the step.
    assert found.numerical_error < 1e-6
    # Sampled by few masks only; independent vectors of 1000 numbers have a cosine of 0.03.
    assert found.cosine > 0.6
    assert 0.5 < found.length_ratio < 1.5


def test_report_holds_what_its_command_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    text = REPORT.read_text(encoding="utf-8")
    monkeypatch.setattr("reproductions.fast_dropout.RATES", (0.5,))
    for row in one_step().rows:
        assert f"| {' | '.join(row)} |" in text


def test_report_says_what_its_tables_hold() -> None:
    head, *parts = REPORT.read_text(encoding="utf-8").split("## ")
    sections = [_read_back(part) for part in parts]
    assert head.rstrip() == summary(*sections).rstrip()


def test_summary_gives_the_extremes_of_the_tables() -> None:
    *parts, regulariser = (_read_back(part) for part in REPORT.read_text(encoding="utf-8").split("## ")[1:])
    cosine = regulariser.columns.index("cosine")
    rows = [
        (*row[:cosine], f"{value}", *row[cosine + 1 :])
        for row, value in zip(regulariser.rows, (0.123, 0.987), strict=False)
    ]
    assert "cosines of 0.12 to 0.99," in summary(*parts, replace(regulariser, rows=rows))


def _read_back(part: str) -> Section:
    """A table as it stands in the report."""
    lines = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in part.splitlines() if line[:1] == "|"]
    return Section(title="", command="", columns=lines[0], rows=lines[2:], notes="")
