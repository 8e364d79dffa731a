"""The garbage collector: what it is spared, and what it still finds."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from study.collector import imports_frozen

LEFT_BEHIND = """
class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("found")

Cycle()
"""
"""A program that leaves garbage which only a search finds."""


class Cycle:
    """What only a search frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("start", "found"), [("", "found\n"), ("from study.collector import spare_imports\nspare_imports()\n", "")]
)
def test_a_process_that_is_spared_ends_without_a_last_search(start: str, found: str) -> None:
    ended = subprocess.run([sys.executable, "-c", start + LEFT_BEHIND], capture_output=True, text=True, check=True)
    assert ended.stdout == found


def test_what_is_imported_is_not_searched_and_what_comes_later_is() -> None:
    gc.set_threshold(10**6)
    before = weakref.ref(Cycle())
    with imports_frozen():
        later = weakref.ref(Cycle())
        gc.collect()
        assert later() is None
        assert before() is not None
    gc.collect()
    assert before() is None


def test_while_imports_are_frozen_the_collector_is_as_eager_as_python_has_it() -> None:
    usual = subprocess.run(
        [sys.executable, "-c", "import gc; print(gc.get_threshold())"], capture_output=True, text=True, check=True
    )
    gc.set_threshold(10**6, 3, 2)
    with imports_frozen():
        assert str(gc.get_threshold()) == usual.stdout.strip()
    assert gc.get_threshold() == (10**6, 3, 2)
