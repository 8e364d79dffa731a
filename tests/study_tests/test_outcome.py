"""Outcomes: intervals against the closed form's own defining equation, and text that loses nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.outcome import Loss, Outcome, Rung, Status, wilson_interval


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_bounds_are_where_the_normal_test_just_rejects(counts: tuple[int, int]) -> None:
    n_failed, n = counts
    p = n_failed / n
    for bound in wilson_interval(n_failed, n):
        # At the ends of [0, 1] the bound is that end, up to rounding.
        if 1e-9 < bound < 1 - 1e-9:
            # |p - bound| = z sqrt(bound (1 - bound) / n) defines the score interval.
            assert abs(p - bound) == pytest.approx(
                1.959963984540054 * math.sqrt(bound * (1 - bound) / n), rel=1e-6, abs=1e-9
            )


def test_wilson_interval_agrees_with_a_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert [round(bound, 4) for bound in wilson_interval(81, 263)] == [0.2553, 0.3662]
    assert [round(bound, 4) for bound in wilson_interval(15, 148)] == [0.0624, 0.1605]


def test_outcome_survives_its_text_with_infinities() -> None:
    outcome = Outcome(
        status=Status.PRUNED,
        dependency_length=24,
        skill=0.5,
        diverged=False,
        n_updates=1000,
        rungs=(Rung(length=30, lag=24, n_failed=3, n_sequences=10_000),),
        error_flow=(1.0, 0.5, 0.0),
        part_flow={"forget": (0.5, math.inf)},
        lyapunov=(0.1, -math.inf),
        metrics={"gradient/half_life": math.inf, "gradient/decay_rate": -math.inf},
        reason="",
    )
    assert Outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.parametrize(
    ("vanishing", "decay_rate", "verdict"),
    [
        (1.0, -0.1, "the bound predicted vanishing, measured: vanishing"),
        (1.0, -math.inf, "the bound predicted vanishing, measured: vanishing"),
        (1.0, 0.1, "the bound predicted vanishing, measured: not vanishing"),
        (0.0, -0.1, "the bound left it open, measured: vanishing"),
        (0.0, 0.0, "the bound left it open, measured: not vanishing"),
        (math.nan, -0.1, None),
        (None, -0.1, None),
        (1.0, None, None),
    ],
)
def test_bound_verdict_holds_the_prediction_against_the_measurement(
    vanishing: float | None, decay_rate: float | None, verdict: str | None
) -> None:
    measured = {"bound/vanishing": vanishing, "gradient/decay_rate": decay_rate}
    outcome = Outcome(
        status=Status.COMPLETE,
        dependency_length=0,
        skill=0.0,
        diverged=False,
        n_updates=1,
        metrics={name: value for name, value in measured.items() if value is not None},
    )
    assert outcome.bound_verdict == verdict


def test_best_rung_is_the_longest_solved_or_else_the_first() -> None:
    rungs = tuple(Rung(length=t, lag=t, n_failed=f, n_sequences=1000) for t, f in ((10, 0), (20, 9), (30, 10)))

    def outcome(rungs: tuple[Rung, ...]) -> Outcome:
        return Outcome(status=Status.COMPLETE, dependency_length=0, skill=0, diverged=False, n_updates=1, rungs=rungs)

    assert outcome(rungs).best_rung == rungs[1]
    assert outcome(rungs[2:]).best_rung == rungs[2]
    assert outcome(()).best_rung is None


def test_bits_are_nats_over_the_logarithm_of_two_and_the_interval_is_normal() -> None:
    loss = Loss(mean=math.log(8), standard_error=0.1)
    assert loss.bits == pytest.approx(3)
    assert loss.interval == pytest.approx((math.log(8) - 0.195996, math.log(8) + 0.195996), abs=1e-6)
