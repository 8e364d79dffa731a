"""A small study run by the command line in processes of its own, and what must hold when it has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from study.outcome import Status
from study.record import TrialRecord
from study.search.catalogue import Catalogue
from study.search.storage import open_storage
from study.tracking.server import connect, runs_of

N_TRIALS, MODELS = 6, ("tanh", "lstm")

SPEC = """
name: tiny
task: {name: temporal_order}
ladder: [6, 10]
n_hidden: 8
seed: 3
training: {n_updates: 480, batch_size: 10, lengths: [6, 10], report_every: 20, evaluate_every: 60,
           n_interim: 250, n_final: 1000}
halving: {rungs: [40], keep: 0.5}
search: {sampler: tpe, n_trials: 6, stack_size: 3, look_back: 1, n_startup: 3}
models:
  tanh: {cell: elman_tanh}
  lstm: {cell: lstm}
space:
  dropout: {choices: [none, dropout]}
"""

DEADLINE_S = 120.0


def command(home: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "study.cli", "--home", str(home), *words]


def longlag(home: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, *words),
        capture_output=True,
        check=False,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, **(env or {})},
    )


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    with (home.parent / "driver.log").open("a") as log:
        # In a group of its own, which tests may signal as a whole.
        process = subprocess.Popen(command(home, *words), stdout=log, stderr=log, text=True, start_new_session=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look ten times a second; the world outside this process sends no events."""
    never = threading.Event()
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:.0f} s for {what}"
        never.wait(0.1)


def spec_file(folder: Path, text: str = SPEC) -> str:
    path = folder / "tiny.yaml"
    path.write_text(text)
    return str(path)


def catalogue(home: Path) -> Catalogue:
    return Catalogue(open_storage(f"sqlite:///{home / 'search.db'}"))


def n_ended(home: Path) -> int:
    if not (home / "search.db").exists():
        return 0
    return sum(record.outcome is not None for record in catalogue(home).records("tiny"))


def described(home: Path) -> list[tuple[object, ...]]:
    return described_records(catalogue(home).records("tiny"))


def described_records(found: list[TrialRecord]) -> list[tuple[object, ...]]:
    return sorted(
        (
            record.key,
            json.dumps(dict(record.parameters), sort_keys=True),
            record.status,
            None if record.outcome is None else record.outcome.value,
            None if record.outcome is None else record.outcome.rungs,
        )
        for record in found
    )


def assert_whole(records: list[TrialRecord], uri: str) -> None:
    """Exact budget, every trial settled, one finished MLflow run for each and the same outcome in both."""
    assert sorted((one.key.model, one.key.number) for one in records) == sorted(
        (model, number) for model in MODELS for number in range(N_TRIALS)
    )
    assert all(one.status in {Status.COMPLETE, Status.PRUNED} for one in records)
    client = connect(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = {run.data.tags.get("longlag.trial"): run for run in runs_of(client, experiment.experiment_id)}
    assert len(runs_of(client, experiment.experiment_id)) == len(records) + 1
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for record in records:
        run = runs[str(record.key)]
        assert record.outcome is not None
        assert run.info.run_id == record.run_id
        assert run.data.metrics["objective"] == pytest.approx(record.outcome.value)
        history = [point.step for point in client.get_metric_history(run.info.run_id, "loss")]
        assert history == sorted(set(history)), "an update is recorded twice"
        assert {"weights.safetensors", "study.yaml", "error_flow.svg", "ladder.svg"} <= {
            artifact.path for artifact in client.list_artifacts(run.info.run_id)
        }


def descendants(pid: int) -> list[int]:
    """All processes below this one. Ray's workers are children of its raylet."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def actors(driver: int) -> list[int]:
    """The processes that train for a driver. Ray's title names the class of the call they are at, or else their own."""
    return [
        pid for pid in descendants(driver) if title(pid).startswith(("ray::ResourceTrainable", "ray::StackTrainable"))
    ]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
