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


BEGIN = {
    "the command line": "sys.argv = ['longlag', '--version']\nfrom study.cli import main",
    "what carries entries to MLflow": "\n".join(
        (
            "from multiprocessing import Pipe",
            "ours, theirs = Pipe()",
            "ours.close()",
            "sys.argv = ['', str(os.dup(theirs.fileno()))]",
            "from study.tracking.__main__ import main",
        )
    ),
}
"""Programs that are about to begin: a command, and a process that is told nothing."""


@pytest.mark.parametrize("begin", BEGIN.values(), ids=list(BEGIN))
def test_a_process_of_ours_is_spared(begin: str) -> None:
    # What is registered first comes last.
    look = (
        "import atexit, gc, os, sys\natexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
    )
    ended = subprocess.run([sys.executable, "-c", f"{look}{begin}\nmain()"], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "50000 True"
    assert not ended.stderr


def test_while_imports_are_frozen_the_collector_is_as_eager_as_before_they_were_spared() -> None:
    program = (
        "import gc\n"
        "before = gc.get_threshold()\n"
        "from study.collector import imports_frozen, spare_imports\n"
        "spare_imports()\n"
        "spared = gc.get_threshold()\n"
        "with imports_frozen():\n"
        "    assert gc.get_threshold() == before != spared\n"
        "assert gc.get_threshold() == spared\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_process_that_has_thresholds_of_its_own_keeps_them() -> None:
    gc.set_threshold(10**6, 3, 2)
    with imports_frozen():
        assert gc.get_threshold() == (10**6, 3, 2)
    assert gc.get_threshold() == (10**6, 3, 2)
