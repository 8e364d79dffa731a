"""The ladder: what counts as solved, where the climb ends, what is learned in the end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from study.outcome import Rung
from study.training.draw import StreamDraws, keys
from study.training.ladder import climb, dependency_length, skill, solves_all
from study.training.measure import yardstick
from study_tests.plan_book import STACK
from tasks import TASKS, Batch

TASK = TASKS["temporal_order"]()


def rung(length: int, n_failed: int) -> Rung:
    return Rung(length=length, lag=TASK.min_lag(length), n_failed=n_failed, n_sequences=1000)


def draw(length: int, n_sequences: int, part: int) -> Batch:
    return TASK.sample(StreamDraws(keys((1,), length), part, n_sequences), length)


def forgetful(reach: Sequence[int]) -> object:
    """Members that answer perfectly up to a length of their own, and with a constant beyond it."""

    def infer(members: Sequence[int], batch: Batch) -> Tensor:
        perfect = TASK.oracle(batch)
        constant = torch.zeros_like(perfect)
        length = batch.inputs.shape[0]
        return torch.stack([perfect if length <= reach[member] else constant for member in members])

    return infer


def test_climb_stops_each_member_at_its_first_unsolved_rung() -> None:
    reach = [30, 5, 100, 10]
    found = climb(
        forgetful(reach),
        4,
        TASK,
        ladder=(10, 20, 30, 50),
        shortest=10,
        n_sequences=600,
        draw=draw,  # type: ignore[arg-type]
    )
    assert [[one.length for one in member] for member in found] == [[10, 20, 30, 50], [10], [10, 20, 30, 50], [10, 20]]
    assert [dependency_length(member, 10) for member in found] == [24, 0, 40, 8]
    assert all(one.n_sequences == 600 for member in found for one in member)
    assert [solves_all(member, (10, 20, 30, 50), 10) for member in found] == [False, False, True, False]


def test_measuring_draws_as_many_fresh_sequences_as_it_says_and_others_for_every_purpose() -> None:
    seen: list[tuple[int, ...]] = []

    def infer(members: Sequence[int], batch: Batch) -> Tensor:
        seen.extend(map(tuple, batch.inputs.T.tolist()))
        return torch.zeros(len(members), 1, batch.inputs.shape[1], TASK.n_out)

    measured = yardstick(STACK)
    for purpose in ("interim/1", "final/1", "confirmed/1"):
        # Not a multiple of what is drawn at a time; so long that no sequence comes twice by chance.
        ((rung,), _) = measured.measure(infer, 2, purpose=purpose, ladder=(40,), n_sequences=600)
        assert rung.n_sequences == 600
    assert len(seen) == len(set(seen)) == 3 * 600
    assert measured.probe_batch(3).inputs.shape == (STACK.training.longest, 3)


def test_climb_goes_on_past_an_unsolved_rung_below_the_shortest_training_length() -> None:
    def infer(members: Sequence[int], batch: Batch) -> Tensor:
        perfect = TASK.oracle(batch)
        return (perfect if batch.inputs.shape[0] >= 20 else torch.zeros_like(perfect)).unsqueeze(0)

    (found,) = climb(infer, 1, TASK, ladder=(10, 20, 30), shortest=20, n_sequences=300, draw=draw)
    assert [one.solved for one in found] == [False, True, True]
    assert dependency_length(found, 20) == 24
    assert solves_all(found, (10, 20, 30), 20)
    assert skill(found, 20, 0.75) == 0.0


@pytest.mark.parametrize(
    ("failures", "length", "credit"),
    [
        ([0, 0, 750], 16, 0.0),
        ([0, 9, 10], 16, 1 - 0.01 / 0.75),
        ([10], 0, 1 - 0.01 / 0.75),
        ([9, 9, 9], 24, 0.0),
        ([1000], 0, 0.0),
    ],
)
def test_dependency_length_counts_only_rungs_under_one_percent(failures: list[int], length: int, credit: float) -> None:
    rungs = [rung(at, n) for at, n in zip((10, 20, 30), failures, strict=False)]
    assert dependency_length(rungs, 10) == length
    assert skill(rungs, 10, 0.75) == pytest.approx(credit)


def test_skill_never_outweighs_a_solved_step() -> None:
    barely = [rung(10, 10)]
    assert skill(barely, 10, 0.75) < 1
