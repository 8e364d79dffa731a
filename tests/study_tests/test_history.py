"""What is learned from: a plain TPE that is given the trials that should count asks the same."""

from __future__ import annotations

import gc
import math
import random
import tracemalloc
import warnings
from dataclasses import replace

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial, TrialState

from study.outcome import Outcome, Status, failed_outcome
from study.plan import Choices, Interval, ModelPlan
from study.search import lessons
from study.search.history import PARAMETERS, History
from study.search.lessons import MAX_LEARNED, N_GOOD
from study.search.space import suggest
from study.seeds import derive
from study_tests.plan_book import MODEL, POINT, SEARCH, SPACE

SEED, N_TRIALS, N_RUNNING = 11, 60, 4

WIDE = replace(
    MODEL,
    space={
        **SPACE,
        "bias_init": Choices(values=("constant", "chrono")),
        "chrono_length": Interval(low=10.0, high=10.0),
        "bptt_steps": Interval(low=2, high=40, log=True),
        "dropout": Choices(values=("none", "dropout", "fast")),
        "dropout_masks": Choices(values=("step", "sequence")),
        "fast_readout": Choices(values=("moments",)),
    },
)
"""Conditions within conditions, whole numbers, and two that would be searched if they had more than one value."""


def outcome(number: int) -> Outcome:
    """One of every kind; few values, so that many are equal."""
    chance = random.Random(number)
    kind = chance.random()
    if kind < 0.1:
        return failed_outcome("it broke")
    return Outcome(
        status=Status.PRUNED if kind < 0.4 else Status.COMPLETE,
        dependency_length=8 * chance.randrange(4),
        skill=math.nan if kind < 0.2 else 0.5,
        diverged=False,
        n_updates=chance.choice([50, 100]),
    )


def ended(asked: FrozenTrial, how: Outcome) -> FrozenTrial:
    """A trial as Optuna's users would enter it after the fact."""
    states = {Status.FAILED: TrialState.FAIL, Status.PRUNED: TrialState.PRUNED, Status.COMPLETE: TrialState.COMPLETE}
    return optuna.trial.create_trial(
        state=states[how.status],
        params=asked.params,
        distributions=asked.distributions,
        value=how.value if how.status is Status.COMPLETE else None,
        intermediate_values={how.n_updates: how.value} if how.status is Status.PRUNED else {},
    )


def learned(outcomes: dict[int, Outcome], n_most: int, n_good: int) -> set[int]:
    """Numbers of the ended trials that should count, by sorting all of them."""
    numbers = [number for number, how in sorted(outcomes.items()) if how.status is not Status.FAILED]

    def place(number: int) -> tuple[float, ...]:
        how = outcomes[number]
        worth = math.inf if math.isnan(how.value) else -how.value
        return (1, -how.n_updates, worth) if how.status is Status.PRUNED else (0, 0, worth)

    good = sorted(numbers, key=place)[:n_good]
    others = [number for number in numbers if number not in good]
    return {*good, *others[-(n_most - len(good)) :]}


@pytest.mark.parametrize(
    ("n_most", "n_good", "n_startup"), [(MAX_LEARNED, N_GOOD, 8), (20, 6, 8), (20, 18, 8), (20, 6, 30)]
)
@pytest.mark.parametrize("model", [MODEL, WIDE])
def test_ask_is_that_of_a_plain_tpe_given_the_best_and_the_latest(
    monkeypatch: pytest.MonkeyPatch, model: ModelPlan, n_most: int, n_good: int, n_startup: int
) -> None:
    monkeypatch.setattr(lessons, "MAX_LEARNED", n_most)
    monkeypatch.setattr(lessons, "N_GOOD", n_good)
    search = replace(SEARCH, n_startup=n_startup)
    history = History(search, model, SEED, [])
    asked: list[FrozenTrial] = []
    outcomes: dict[int, Outcome] = {}
    for number in range(N_TRIALS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = TPESampler(
                seed=derive(SEED, "ask", "m", number) % 2**32,
                n_startup_trials=n_startup,
                n_ei_candidates=24,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
        plain = optuna.create_study(direction="maximize", sampler=sampler)
        counted = learned(outcomes, max(n_most, n_startup), n_good)
        plain.add_trials([ended(asked[other], outcomes[other]) for other in sorted(counted)])
        plain.add_trials(asked[len(outcomes) :])
        asked.append(history.ask())
        assert asked[-1].user_attrs[PARAMETERS] == suggest(plain.ask(), model)
        if number >= N_RUNNING:
            told = len(outcomes)
            outcomes[told] = outcome(told)
            history.tell(told, outcomes[told])
    n_ended = sum(outcomes[number].status is not Status.FAILED for number in range(told))
    assert len(counted) == min(n_ended, max(n_most, n_startup))


def test_the_good_trials_that_are_kept_are_all_that_tpe_can_take_for_good() -> None:
    # The share of good trials is not public; an upgrade that changes it must not pass unnoticed.
    assert max(map(default_gamma, range(10 * MAX_LEARNED))) == default_gamma(MAX_LEARNED) == N_GOOD


def test_ask_is_the_same_when_the_history_knows_nothing_of_draws_that_were_not_taken() -> None:
    rates = tuple(k / 10 for k in range(1, 9))
    inits = Choices(values=("identity", "orthogonal", "sparse"))
    search = replace(SEARCH, n_startup=2)
    one = replace(MODEL, space={**POINT, "learning_rate": Choices(values=rates), "init": inits})
    steady = History(search, one, SEED, [])
    trials: list[FrozenTrial] = []
    for number in range(24):
        asked = steady.ask()
        assert asked.params == History(search, one, SEED, trials).ask().params
        how = outcome(number)
        steady.tell(number, how)
        trials.append(ended(asked, how))
        trials[-1].user_attrs = asked.user_attrs
    assert len({tuple(trial.params.values()) for trial in trials}) == 24


def test_a_trial_that_has_ended_takes_up_less_than_half_a_kilobyte() -> None:
    history = History(replace(SEARCH, sampler="random"), MODEL, SEED, [])

    def play(n_trials: int) -> None:
        for number in range(len(history), len(history) + n_trials):
            history.ask()
            history.tell(number, outcome(number))
        gc.collect()

    play(300)
    tracemalloc.start()
    play(300)
    n_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_bytes < 500 * 300
