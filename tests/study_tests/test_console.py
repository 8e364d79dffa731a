"""What is shown while a study runs, and that nobody need look."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_WATCHED = """
import sys, time
from rich.console import Console
from study import console
from study.course import Course
from study.running import Watched
from study.study_file import load_spec

asked = time.monotonic() + 0.3 if sys.argv[2:] else float("inf")
console.PLAIN_S, console.GLANCE_S = 60.0 if sys.argv[2:] else 0.1, 0.05
plan = load_spec("demo").plan("cpu")
courses = {model.name: Course(plan=model, search=None, n_asked=0, records={}) for model in plan.models}
watched = Watched(
    plan=plan,
    courses=courses,
    started_s=time.monotonic(),
    n_settled_before=0,
    n_pending=lambda: 0,
    tracking_error=lambda: None,
    stopping=lambda: time.monotonic() > asked,
)
shown = Console(force_terminal=sys.argv[1] == "terminal")
with console.watching(shown, watched):
    time.sleep(1)
sys.stderr.write("went on")
"""


@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_a_study_goes_on_when_its_reader_has_gone(where: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", _WATCHED, where], stdout=pipe, stderr=subprocess.PIPE, check=False, text=True
        )
    assert (done.returncode, done.stderr) == (0, "went on")


@pytest.mark.parametrize(("where", "saying"), [("terminal", "0/24"), ("pipe", "tanh_elman 0/24")])
def test_a_study_shows_how_far_its_models_are(where: str, saying: str) -> None:
    done = subprocess.run([sys.executable, "-c", _WATCHED, where], capture_output=True, check=True, text=True)
    assert saying in done.stdout


@pytest.mark.parametrize("where", ["terminal", "pipe"])
def test_a_study_that_is_asked_to_stop_says_so_before_it_has(where: str) -> None:
    command = [sys.executable, "-c", _WATCHED, where, "stopping"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert "stopping" in done.stdout
    if where == "pipe":
        # Once at once, and once at the end.
        assert done.stdout.count("stopping") == 2
