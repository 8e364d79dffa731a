"""What the time of a worker is booked as."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from study.plan import Hyperparameters, Member
from study.training import watch as module
from study.training.bracket import Bracket
from study.training.watch import Watch
from study_tests.plan_book import STACK


def test_seconds_of_compiling_are_booked_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, compiled = iter([0.0, 10.0, 100.0, 101.0, 106.0]), iter([3.0, 10.0, 11.0, 11.0, 11.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    monkeypatch.setattr(module, "compilation_s", lambda: next(compiled))
    watch = Watch()
    for name in ("error_flow", "training", "error_flow", "evaluation"):
        watch.lap(name)
    assert watch.seconds == {"compilation": 8.0, "error_flow": 4.0, "training": 89.0, "evaluation": 5.0}


def test_a_bracket_books_every_part_of_an_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    laps: list[str] = []
    monkeypatch.setattr(Watch, "lap", lambda self, name: laps.append(name))
    member = Member(number=0, seed=0, hyperparameters=Hyperparameters(learning_rate=0.01))
    bracket = Bracket(replace(STACK, members=(member,)))
    for name in ("probe", "train"):
        part = getattr(bracket.stack, name)
        monkeypatch.setattr(
            bracket.stack, name, lambda *given, part=part, name=name: (laps.append(name), part(*given))[1]
        )
    bracket.advance()
    assert laps == ["probe", "error_flow", "train", "training", "probe", "error_flow", "evaluation"]
