"""A model's course: which of its outcomes is the best."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from study.course import Course
from study.outcome import Loss, Outcome, Rung, Status, failed_outcome
from study_tests.conductor_book import Log, conductor, study_plan

ON_DATA = Outcome(
    status=Status.COMPLETE,
    dependency_length=4,
    skill=0.6,
    diverged=False,
    n_updates=3,
    rungs=(Rung(length=10, lag=10, n_failed=1, n_sequences=9, loss=Loss(mean=1.0, standard_error=0.1)),),
)


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return conductor(tmp_path, study_plan(), Log()).courses["a"]


def test_best_is_the_trial_with_the_lowest_loss_on_data_and_not_that_with_the_longest_context(course: Course) -> None:
    for number, (context, skill) in enumerate(((8, 0.1), (4, 0.6), (10, 0.5))):
        course.keep(number, replace(ON_DATA, dependency_length=context, skill=skill))
    assert course.best is not None
    assert course.best.dependency_length == 4


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_best_of_equals_is_the_trial_asked_first_and_never_one_that_failed(
    course: Course, order: tuple[int, ...]
) -> None:
    outcomes = [failed_outcome("Traceback: boom"), replace(ON_DATA, n_updates=1), replace(ON_DATA, n_updates=2)]
    for number in order:
        course.keep(number, outcomes[number])
    assert course.best == outcomes[1]
