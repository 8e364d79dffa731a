"""The bracket: who leaves when, with what, and that nothing depends on interruptions."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from study.hyperparameter import applying
from study.outcome import Outcome, Rung, Status, TrialKey
from study.plan import Hyperparameters, Member, StackPlan
from study.record import TrialRecord
from study.study_file import dump_spec, parse_spec
from study.training.bracket import Bracket, Departure
from study.training.stack import Stack
from study_tests import plan_book
from study_tests.plan_book import STACK

TRAINING = replace(plan_book.TRAINING, n_updates=40, report_every=15, evaluate_every=40, rungs=(10, 20))


def plan(n_members: int = 5, **changes: object) -> StackPlan:
    members = tuple(
        Member(number=10 + k, hyperparameters=Hyperparameters(learning_rate=0.01 * (k + 1)), seed=k)
        for k in range(n_members)
    )
    return replace(STACK, training=replace(TRAINING, **changes), members=members)  # type: ignore[arg-type]


def play(bracket: Bracket) -> tuple[list[int], dict[int, Departure]]:
    stops, departed = [], {}
    while not bracket.done:
        progress = bracket.advance()
        stops.append(progress.n_updates)
        for departure in progress.departures:
            assert departure.number not in departed
            departed[departure.number] = departure
    return stops, departed


def test_advance_stops_at_reports_rungs_evaluations_and_the_end() -> None:
    stops, departed = play(Bracket(plan()))
    assert stops == [10, 15, 20, 30, 40]
    assert sorted(departed) == [10, 11, 12, 13, 14]


def test_advance_halves_at_rungs_and_completes_the_rest() -> None:
    _, departed = play(Bracket(plan()))
    ended = [(one.outcome.status, one.outcome.n_updates) for one in departed.values()]
    # Of five, ceil(2.5) = 3 go on past the first rung, and ceil(1.5) = 2 past the second.
    assert sorted(ended) == [
        (Status.COMPLETE, 40),
        (Status.COMPLETE, 40),
        (Status.PRUNED, 10),
        (Status.PRUNED, 10),
        (Status.PRUNED, 20),
    ]


def test_a_rung_keeps_the_members_with_the_highest_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    share = {10: 0.6, 11: 0.2, 12: 0.4, 13: 0.1, 14: 0.7}

    def measured(stack: Stack, purpose: str, n: int, indices: list[int], ladder: object = None) -> list[tuple[Rung]]:
        numbers = [stack.members[k].number for k in indices]
        return [(Rung(length=6, lag=4, n_failed=round(n * share[one]), n_sequences=n),) for one in numbers]

    monkeypatch.setattr(Stack, "evaluate", measured)
    _, left = play(Bracket(plan()))
    # Nobody has solved anything: the partial credit decides.
    assert {number: one.outcome.n_updates for number, one in left.items()} == {14: 10, 10: 10, 12: 20, 11: 40, 13: 40}


def test_a_pruned_trial_pinned_as_a_study_of_its_own_ends_as_it_did() -> None:
    spec = parse_spec("""
name: s
task: {name: temporal_order}
ladder: [6, 10]
seed: 2
training: {n_updates: 40, batch_size: 5, lengths: [6, 10], report_every: 15, evaluate_every: 40,
           n_interim: 250, n_final: 1000}
halving: {rungs: [10, 20]}
models: {m: {cell: elman_tanh, n_hidden: 5, space: {init: orthogonal, optimiser: sgd, dropout: none, omega_weight: 0}}}
""")
    assert spec.plan("cpu").training == TRAINING
    together = plan()
    _, departed = play(Bracket(together))
    pruned = [member for member in together.members if departed[member.number].outcome.status is Status.PRUNED]
    assert {departed[member.number].outcome.n_updates for member in pruned} == {10, 20}
    for member in pruned:
        outcome = departed[member.number].outcome
        key = TrialKey(study="s", model="m", number=member.number)
        parameters = applying("elman_tanh", asdict(member.hyperparameters))
        record = TrialRecord(
            key=key, parameters=parameters, seed=member.seed, status=outcome.status, outcome=outcome, run_id=None
        )
        again = parse_spec(dump_spec(spec.pinned(record))).plan("cpu")
        alone = replace(together, training=again.training, members=(member,))
        _, repeated = play(Bracket(alone))
        found = repeated[member.number].outcome
        assert (found.n_updates, found.rungs) == (outcome.n_updates, outcome.rungs)
        for name, weight in departed[member.number].weights.items():
            # A stack of one may add in another order than one of five: float32 rounding over 20 updates.
            torch.testing.assert_close(repeated[member.number].weights[name], weight, rtol=1e-4, atol=1e-5)


def test_advance_never_prunes_a_stack_of_one() -> None:
    _, departed = play(Bracket(plan(1)))
    assert departed[10].outcome.status is Status.COMPLETE


def test_outcome_is_measured_on_the_final_number_of_sequences() -> None:
    _, departed = play(Bracket(plan()))
    for one in departed.values():
        assert one.outcome.rungs
        assert all(rung.n_sequences == 1000 for rung in one.outcome.rungs)
        assert one.outcome.error_flow
        assert one.outcome.metrics["gradient/decay_rate"] == one.outcome.metrics["gradient/decay_rate"]


def test_outcome_has_the_lyapunov_spectrum_of_whoever_leaves_and_reports_its_summary() -> None:
    bracket, outcomes, reported = Bracket(plan()), {}, {}
    while not bracket.done:
        progress = bracket.advance()
        outcomes |= {one.number: one.outcome for one in progress.departures}
        for number, metrics in progress.metrics.items():
            named = {metric.name: metric.value for metric in metrics if metric.name == "lyapunov/sum"}
            # It costs as much as several updates: nobody else pays it.
            assert bool(named) is (number in {one.number for one in progress.departures})
            reported |= {number: named["lyapunov/sum"]} if named else {}
    for number, outcome in outcomes.items():
        assert len(outcome.lyapunov) == 5
        assert list(outcome.lyapunov) == sorted(outcome.lyapunov, reverse=True)
        assert outcome.metrics["lyapunov/sum"] == pytest.approx(sum(outcome.lyapunov)) == reported[number]
        assert outcome.metrics["lyapunov/kaplan_yorke"] >= 0


@pytest.mark.parametrize(("cell", "n_exponents", "parts"), [("lstm", 10, 6), ("gru", 5, 4), ("elman_logistic", 5, 0)])
def test_outcome_has_the_spectrum_of_the_whole_state_and_the_flow_of_every_part(
    cell: str, n_exponents: int, parts: int
) -> None:
    _, departed = play(Bracket(replace(plan(1, rungs=(), evaluate_every=5, n_updates=5), cell=cell)))
    outcome = departed[10].outcome
    assert len(outcome.lyapunov) == n_exponents
    assert [len(curve) for curve in outcome.part_flow.values()] == parts * [len(outcome.error_flow)]


def test_a_member_that_diverges_leaves_as_complete_with_what_it_measured_and_the_rest_goes_on() -> None:
    base = plan(3, rungs=())
    wild = Hyperparameters(init="identity", init_scale=1e3, learning_rate=1e3, clip_norm=float("inf"))
    members = (replace(base.members[0], hyperparameters=wild), *base.members[1:])
    stops, departed = play(Bracket(replace(base, cell="elman_rectifier", members=members)))
    outcome = departed[10].outcome
    assert outcome.status is Status.COMPLETE
    assert outcome.diverged
    assert outcome.dependency_length == 0
    assert outcome.rungs[0].n_failed == 1000
    assert outcome.n_updates == stops[0]
    assert outcome.lyapunov == ()
    assert "lyapunov/sum" not in outcome.metrics
    assert [departed[number].outcome.n_updates for number in (11, 12)] == [40, 40]


def test_a_member_that_diverges_takes_nobodys_place_at_a_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    bracket = Bracket(plan(4))

    def hopeless(purpose: str, n_sequences: int, indices: list[int], ladder: object = None) -> list[tuple[object, ...]]:
        return [(Rung(length=6, lag=4, n_failed=n_sequences, n_sequences=n_sequences),) for _ in indices]

    monkeypatch.setattr(bracket.stack, "evaluate", hopeless)
    # The earlier numbers, which among equals stay.
    bracket.stack.flat[:2] = torch.nan
    left = {one.number: one.outcome for one in bracket.advance().departures}
    assert {number: (one.status, one.n_updates) for number, one in left.items()} == {
        10: (Status.COMPLETE, 10),
        11: (Status.COMPLETE, 10),
    }
    assert [member.number for member in bracket.stack.members] == [12, 13]


def test_a_member_that_solves_the_ladder_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bracket = Bracket(plan(2, ladder=(6,), evaluate_every=5, rungs=()))

    def perfect(purpose: str, n_sequences: int, indices: list[int], ladder: object = None) -> list[tuple[object, ...]]:
        number = [bracket.stack.members[k].number for k in indices]
        return [
            (Rung(length=6, lag=4, n_failed=0 if n == 11 else n_sequences, n_sequences=n_sequences),) for n in number
        ]

    monkeypatch.setattr(bracket.stack, "evaluate", perfect)
    progress = bracket.advance()
    assert [(one.number, one.outcome.status, one.outcome.n_updates) for one in progress.departures] == [
        (11, Status.COMPLETE, 5)
    ]
    assert [member.number for member in bracket.stack.members] == [10]


def test_a_member_that_solves_only_the_interim_sequences_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    bracket = Bracket(plan(1, ladder=(6,), evaluate_every=5, rungs=()))

    def lucky(purpose: str, n_sequences: int, indices: list[int], ladder: object = None) -> list[tuple[object, ...]]:
        failed = 0 if purpose.startswith("interim") else n_sequences
        return [(Rung(length=6, lag=4, n_failed=failed, n_sequences=n_sequences),) for _ in indices]

    monkeypatch.setattr(bracket.stack, "evaluate", lucky)
    assert bracket.advance().departures == []
    assert not bracket.done


def test_the_recorded_error_is_measured_on_sequences_that_nothing_was_chosen_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bracket = Bracket(plan(2, ladder=(6, 8), evaluate_every=5, rungs=()))
    honest = bracket.stack.evaluate

    def lucky(
        purpose: str, n_sequences: int, indices: list[int], ladder: tuple[int, ...] | None = None
    ) -> list[tuple[Rung, ...]]:
        measured = honest(purpose, n_sequences, indices, ladder)
        return measured if ladder else [tuple(replace(rung, n_failed=0) for rung in rungs) for rungs in measured]

    monkeypatch.setattr(bracket.stack, "evaluate", lucky)
    monkeypatch.setattr(bracket, "_solves_all", lambda rungs: True)
    best, other = (one.outcome for one in bracket.advance().departures)
    confirmed = best.confirmed
    assert confirmed is not None
    assert (confirmed.length, confirmed.n_sequences) == (best.rungs[-1].length, 1000)
    # Five updates teach nothing: of four classes, three are wrong.
    assert confirmed.error > 0.5
    # Of equals the earlier number is the best; nobody asks how lucky the others were.
    assert other.confirmed is None


def test_the_best_of_a_study_is_confirmed_whenever_it_leaves() -> None:
    _, left = play(Bracket(plan()))
    best = min(left, key=lambda number: (left[number].outcome.order, number))
    assert left[best].outcome.confirmed is not None


@pytest.mark.parametrize("restarted", [False, True])
def test_who_is_not_the_best_of_the_stack_so_far_is_not_confirmed(
    monkeypatch: pytest.MonkeyPatch, *, restarted: bool
) -> None:
    def solving(stack: Stack, purpose: str, n: int, indices: list[int], ladder: object = None) -> list[tuple[Rung]]:
        solvers = {5: {12}, 10: {11, 13}, 15: {14}}.get(stack.n_updates, set())
        numbers = [stack.members[k].number for k in indices]
        return [(Rung(length=6, lag=4, n_failed=0 if one in solvers else n, n_sequences=n),) for one in numbers]

    monkeypatch.setattr(Stack, "evaluate", solving)
    bracket = Bracket(plan(5, ladder=(6,), evaluate_every=5, n_updates=20, rungs=()))
    left = {}
    while not bracket.done:
        left |= {one.number: one.outcome for one in bracket.advance().departures}
        if restarted and not bracket.done:
            bracket = Bracket.from_bytes(bracket.plan, bracket.to_bytes())
    assert {number: one.n_updates for number, one in left.items()} == {12: 5, 11: 10, 13: 10, 14: 15, 10: 20}
    # Of equals the earlier number is the better one, which makes 11 the best of all.
    assert {number for number, one in left.items() if one.confirmed is not None} == {12, 11}


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_outcomes_do_not_depend_on_a_restart_from_a_checkpoint(stop_after: int) -> None:
    def outcomes(bracket: Bracket) -> dict[int, tuple[Outcome, dict[str, torch.Tensor]]]:
        return {number: (one.outcome, one.weights) for number, one in play(bracket)[1].items()}

    whole = outcomes(Bracket(plan()))
    interrupted = Bracket(plan())
    for _ in range(stop_after):
        interrupted.advance()
    resumed = outcomes(Bracket.from_bytes(plan(), interrupted.to_bytes()))
    for number, (outcome, weights) in resumed.items():
        assert outcome == whole[number][0]
        assert all(torch.equal(weights[name], whole[number][1][name]) for name in weights)


def test_metrics_are_finite_or_infinite_but_never_nan() -> None:
    bracket = Bracket(plan())
    while not bracket.done:
        for metrics in bracket.advance().metrics.values():
            assert all(metric.value == metric.value for metric in metrics)
            names = [metric.name for metric in metrics if metric.update > 0]
            assert len(names) == len(set(names))
            assert {"loss", "gradient/norm", "gradient/horizon", "lyapunov/max", "update_ratio/recurrent"} <= set(names)


def test_the_first_report_also_has_the_error_flow_at_initialisation() -> None:
    expected = [one.metrics for one in Stack(plan()).probe()]
    bracket = Bracket(plan())
    first = bracket.advance().metrics
    for member, metrics in zip(plan().members, expected, strict=True):
        rows = [metric for metric in first[member.number] if metric.update == 0]
        assert {metric.name: metric.value for metric in rows} == metrics
        # MLflow wants a metric's values in the order of their updates.
        assert first[member.number][: len(rows)] == rows
    while not bracket.done:
        assert all(metric.update > 0 for rows in bracket.advance().metrics.values() for metric in rows)
