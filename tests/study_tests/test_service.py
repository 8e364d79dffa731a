"""The service on real parts: processes that are killed, a cluster, PostgreSQL, an MLflow server; nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from study.outcome import Status
from study.search.catalogue import Catalogue, StudyState
from study.search.storage import open_storage
from study.tracking.server import connect, runs_of
from study_tests.service_book import (
    DEADLINE_S,
    MODELS,
    N_TRIALS,
    actors,
    assert_whole,
    catalogue,
    described,
    described_records,
    longlag,
    n_ended,
    running,
    spec_file,
    wait_until,
)


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


def test_replicate_trains_the_best_of_each_model_from_other_seeds_and_tells_how_often_it_works(steady: Path) -> None:
    done = longlag(steady, "replicate", "tiny", "--replicates", "3", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    best = {row["model"]: row for row in json.loads(longlag(steady, "best", "tiny", "--format", "json").stdout)[::-1]}
    again = json.loads(longlag(steady, "best", "tiny-replicated", "--format", "json").stdout)
    assert sorted((row["model"], row["number"]) for row in again) == [(m, n) for m in sorted(MODELS) for n in range(3)]
    for row in again:
        assert row["parameters"] == best[row["model"]]["parameters"]
        assert row["seed"] != best[row["model"]]["seed"]
        assert f"{row['model']} " in done.stdout
    assert done.stdout.count(" of 3 ") == len(MODELS)


def test_export_measures_again_as_recorded(steady: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = json.loads(longlag(steady, "best", "tiny", "--format", "json").stdout)
    # One that fails now and then: whatever measures a trial without errors would be right.
    erring = [row for row in rows if row["status"] == "complete" and row["ladder"][0]["error"] > 0]
    assert erring, rows
    trial, target = f"{erring[0]['model']}/{erring[0]['number']}", tmp_path / "erring"
    assert longlag(steady, "export", "tiny", trial, "--to", str(target)).returncode == 0
    again = longlag(steady, "evaluate", str(target), "--sequences", "10000")
    shown = float(re.findall(r"T = +6 .* error ([\d.]+) \(", again.stdout)[0]) / 100
    first = erring[0]["ladder"][0]
    # The difference of two independent binomial rates, in standard errors.
    spread = (first["error"] * (1 - first["error"]) * (1 / first["n_sequences"] + 1 / 10_000)) ** 0.5
    assert abs(shown - first["error"]) <= 4 * spread + 1e-4


def test_export_of_the_best_launches_again_to_the_same_outcome(steady: Path, tmp_path: Path) -> None:
    best = json.loads(longlag(steady, "best", "tiny", "--top", "1", "--format", "json").stdout)[0]
    trial, target = f"{best['model']}/{best['number']}", tmp_path / "best"
    assert longlag(steady, "export", "tiny", trial, "--to", str(target)).returncode == 0
    relaunched = longlag(tmp_path / "other", "launch", str(target / "study.yaml"))
    assert relaunched.returncode == 0, relaunched.stdout + relaunched.stderr
    row = json.loads(longlag(tmp_path / "other", "best", "--format", "json").stdout)[0]
    assert best["status"] == "complete"
    # To the last bit, in a stack of one instead of three.
    assert [row[key] for key in ("value", "ladder", "error", "n_updates")] == [
        best[key] for key in ("value", "ladder", "error", "n_updates")
    ]


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
    # Nothing of those that were killed stays.
    assert not list((home / "tune").iterdir())
    assert not (home / "spool" / "tiny" / "weights").exists()


def test_trials_are_the_same_when_a_worker_is_killed(steady: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home, "launch", spec_file(tmp_path), "--workers", "1") as driver:
        wait_until(lambda: n_ended(home) >= 1 or driver.poll() is not None, "a trial")
        found = actors(driver.pid)
        assert len(found) == 1, (tmp_path / "driver.log").read_text()
        os.kill(found[0], signal.SIGKILL)
        assert n_ended(home) < 2 * N_TRIALS
        assert driver.wait(DEADLINE_S) == 0, (tmp_path / "driver.log").read_text()
    assert described(home) == described(steady)
    assert_whole(catalogue(home).records("tiny"), f"sqlite:///{home / 'mlflow.db'}")


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "SIGHUP", "stop"])
def test_stopping_settles_every_trial_and_resume_finishes(steady: Path, tmp_path: Path, way: str) -> None:
    home = tmp_path / "home"
    # Whoever has started the tests may have them ignore it.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # The command takes seconds to start, in which the study must not end by itself.
    longer = ["--set", "training.n_updates=60000"] if way == "stop" else []
    with running(home, "launch", spec_file(tmp_path), "--workers", "2", *longer) as driver:
        signal.signal(signal.SIGHUP, before)
        if way == "stop":
            wait_until(lambda: n_ended(home) >= 1 or driver.poll() is not None, "a trial")
            assert "is stopped" in longlag(home, "stop", "tiny").stdout
        else:
            # The worker has seconds of training before it; after its first trial the study may end at any moment.
            wait_until(lambda: actors(driver.pid) or driver.poll() is not None, "a worker")
            # As a terminal does for Ctrl-C and when it is closed, and many a scheduler.
            os.killpg(driver.pid, getattr(signal, way))
        assert driver.wait(DEADLINE_S) == 130, (tmp_path / "driver.log").read_text()
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
        text=True,
    )
    assert process.stdout is not None
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.split()[1] for line in lines if line.startswith("address "))
        process.communicate()
    finally:
        process.kill()
        process.wait()
