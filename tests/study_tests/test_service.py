"""The service on real parts: processes that are killed, a cluster, PostgreSQL, an MLflow server; nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from study.outcome import Status
from study.record import TrialRecord
from study.search.catalogue import Catalogue, StudyState
from study.search.storage import open_storage
from study.tracking.server import connect, runs_of

N_TRIALS, MODELS = 6, ("tanh", "lstm")

SPEC = """
name: tiny
task: {name: temporal_order}
ladder: [6, 10]
n_hidden: 8
seed: 3
training: {n_updates: 120, batch_size: 10, lengths: [6, 10], report_every: 20, evaluate_every: 60,
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
        process = subprocess.Popen(command(home, *words), stdout=log, stderr=log, text=True)
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
        assert {"weights.safetensors", "study.yaml", "error_flow.png", "ladder.png"} <= {
            artifact.path for artifact in client.list_artifacts(run.info.run_id)
        }


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that one worker ran without any trouble."""
    folder = tmp_path_factory.mktemp("steady")
    done = longlag(folder / "home", "launch", spec_file(folder), "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "home"


def test_launch_answers_with_a_table_and_leaves_everything_settled(steady: Path) -> None:
    assert_whole(catalogue(steady).records("tiny"), f"sqlite:///{steady / 'mlflow.db'}")
    assert catalogue(steady).get("tiny").state is StudyState.DONE
    assert not list((steady / "spool" / "tiny" / "weights").glob("*"))
    assert not list((steady / "tune").glob("*"))


def test_best_prints_json_that_a_program_can_read(steady: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(longlag(steady, "best", "tiny", "--format", "json").stdout)
    values = [row["value"] for row in rows]
    assert values == sorted(values, reverse=True)
    for row in rows:
        low, high = row["error"]["interval"]
        assert low <= row["error"]["error"] <= high
        assert re.fullmatch("[0-9a-f]{32}", row["run_id"])
        assert row["parameters"]["learning_rate"] > 0


def test_export_measures_again_as_recorded_and_launches_again_to_the_same_outcome(steady: Path, tmp_path: Path) -> None:
    best = json.loads(longlag(steady, "best", "tiny", "--top", "1", "--format", "json").stdout)[0]
    trial, target = f"{best['model']}/{best['number']}", tmp_path / "exported"
    assert longlag(steady, "export", "tiny", trial, "--to", str(target)).returncode == 0
    again = longlag(steady, "evaluate", str(target), "--sequences", "10000")
    shown = float(re.findall(r"T = +6 .* error ([\d.]+) \(", again.stdout)[0]) / 100
    first = best["ladder"][0]
    # The difference of two independent binomial rates, in standard errors.
    spread = (first["error"] * (1 - first["error"]) * (1 / first["n_sequences"] + 1 / 10_000)) ** 0.5
    assert abs(shown - first["error"]) <= 4 * spread + 1e-4
    relaunched = longlag(tmp_path / "other", "launch", str(target / "study.yaml"))
    assert relaunched.returncode == 0, relaunched.stdout + relaunched.stderr
    row = json.loads(longlag(tmp_path / "other", "best", "--format", "json").stdout)[0]
    if best["status"] == "complete":
        # A stack of one instead of three: float32 rounding, amplified over 120 updates, moves the error a little.
        assert row["value"] == pytest.approx(best["value"], abs=0.2)


def test_trials_are_the_same_with_two_workers_and_a_driver_killed_three_times(steady: Path, tmp_path: Path) -> None:
    home, chance = tmp_path / "home", random.Random(os.environ.get("LONGLAG_TEST_SEED", "1"))
    verb = ["launch", spec_file(tmp_path), "--workers", "2"]
    for _ in range(3):
        goal = min(n_ended(home) + chance.randint(1, 3), 2 * N_TRIALS - 1)
        with running(home, *verb) as driver:
            wait_until(lambda: n_ended(home) >= goal or driver.poll() is not None, f"{goal} trials")  # noqa: B023
            assert driver.poll() is None, (tmp_path / "driver.log").read_text()
            driver.send_signal(signal.SIGKILL)
        assert catalogue(home).get("tiny").state is StudyState.INTERRUPTED
        verb = ["resume", "tiny", "--workers", "2"]
    done = longlag(home, *verb)
    assert done.returncode == 0, done.stdout + done.stderr
    assert described(home) == described(steady)
    assert_whole(catalogue(home).records("tiny"), f"sqlite:///{home / 'mlflow.db'}")


def test_trials_are_the_same_when_a_worker_is_killed(steady: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home, "launch", spec_file(tmp_path), "--workers", "1") as driver:
        wait_until(lambda: n_ended(home) >= 1 or driver.poll() is not None, "a trial")
        workers = [pid for pid in descendants(driver.pid) if "ray::ResourceTrainable" in title(pid)]
        assert workers, (tmp_path / "driver.log").read_text()
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        assert driver.wait(DEADLINE_S) == 0, (tmp_path / "driver.log").read_text()
    assert described(home) == described(steady)
    assert_whole(catalogue(home).records("tiny"), f"sqlite:///{home / 'mlflow.db'}")


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "stop"])
def test_stopping_settles_every_trial_and_resume_finishes(steady: Path, tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    with running(home, "launch", spec_file(tmp_path), "--workers", "2") as driver:
        wait_until(lambda: n_ended(home) >= 1 or driver.poll() is not None, "a trial")
        if way == "stop":
            assert "is stopped" in longlag(home, "stop", "tiny").stdout
        else:
            driver.send_signal(getattr(signal, way))
        assert driver.wait(DEADLINE_S) == 0, (tmp_path / "driver.log").read_text()
    assert catalogue(home).get("tiny").state is StudyState.STOPPED
    records = catalogue(home).records("tiny")
    assert Status.RUNNING not in {record.status for record in records}
    client = connect(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert "RUNNING" not in {run.info.status for run in runs_of(client, experiment.experiment_id)}
    if way == "SIGINT":
        done = longlag(home, "resume", "tiny", "--workers", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert described(home) == described(steady)
        assert_whole(catalogue(home).records("tiny"), f"sqlite:///{home / 'mlflow.db'}")


def test_a_cluster_of_two_nodes_with_postgresql_and_an_mlflow_server_runs_exactly_the_budget(
    steady: Path, tmp_path: Path, postgres_url: str, tracking_uri: str, two_nodes: str
) -> None:
    home = tmp_path / "home"
    env = {"LONGLAG_STORAGE": postgres_url, "MLFLOW_TRACKING_URI": tracking_uri}
    done = longlag(home, "launch", spec_file(tmp_path), "--address", two_nodes, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    records = Catalogue(open_storage(postgres_url)).records("tiny")
    assert_whole(records, tracking_uri)
    assert described_records(records) == described(steady)
    rows = json.loads(longlag(home, "best", "tiny", "--format", "json", env=env).stdout)
    assert len(rows) == 10


@pytest.fixture
def tracking_uri(tmp_path: Path, free_port: int, mlflow_server: Callable[[Path, int], subprocess.Popen[bytes]]) -> str:
    mlflow_server(tmp_path, free_port)
    return f"http://127.0.0.1:{free_port}"


@pytest.fixture
def two_nodes() -> Iterator[str]:
    """The address of a Ray cluster of two raylets with a core each, in processes of its own."""
    code = (
        "import sys; from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "cluster.add_node(num_cpus=1); cluster.wait_for_nodes(timeout=60)\n"
        "print('address', cluster.address, flush=True); sys.stdin.read(); cluster.shutdown()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    yield next(line.split()[1] for line in lines if line.startswith("address "))
    process.communicate()


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


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
