"""Whole studies: trials per hour beside the idiomatic stack, where the time goes, and what growth costs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import yaml

from benchmarks.table import Section
from study.tracking.server import connect, runs_of

N_UPDATES, N_WORKERS = 2000, 2
N_OURS, N_THEIRS = 64, 12
"""Trials of a study; theirs are fewer because their cost per trial, beside the start, does not depend on the number."""

GROWTH = {8: {64: 3, 512: 3, 2000: 3}, 256: {512: 3, 1024: 3, 4096: 1}}
"""By stack size numbers of short trials, and how often a study of so many is run: starts differ by more than a few
trials take.

Fewer would tell of the start: the first trials end while what tracks them is still being imported. A GPU's stacks are
of 256.
"""

_LOOK_S = 0.25
"""Pause between two looks at the memory of a study's processes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One study of ours: seconds of the whole command, what its parent run says, the peak memory of the driver and of
    the process that tracks, and the mean number of updates of a trial.
    """

    wall_s: float
    seconds: dict[str, float]
    driver_mib: float
    tracking_mib: float
    n_updates: float


def throughput() -> Section:
    """Trials per hour of a whole study of as many trials, its start and end included."""
    rows = []
    # Evaluated at the end only, no trial of ours ends early for having solved the ladder: both make the same updates.
    for cell, every in (("elman_tanh", 500), ("lstm", 500), ("lstm", N_UPDATES)):
        _compile(cell)
        ours = launch(_spec(cell, N_OURS, N_UPDATES, evaluate_every=every), N_WORKERS)
        studies = [("longlag", N_OURS, ours.n_updates, ours.wall_s)]
        for label, option in (("Tune's defaults", "defaults"), ("reuse_actors", "reuse")):
            start_s, trials_s = idiomatic(cell, N_THEIRS, N_UPDATES, every, option)
            studies.append((f"idiomatic, {label}", N_THEIRS, N_UPDATES, start_s + trials_s * N_OURS / N_THEIRS))
        for study, n_measured, n_updates, seconds in studies:
            ratio = "" if study == "longlag" else f"{seconds / ours.wall_s:.1f}"
            counts = (str(n_measured), f"{n_updates:.0f}", f"{seconds:.0f}", f"{3600 * N_OURS / seconds:.0f}")
            rows.append((cell, str(every), study, *counts, ratio))
    return Section(
        title="Trials per hour: temporal order, T = 100, 50 units, 20 sequences, 2,000 updates, two workers",
        command="make bench ARGS=throughput",
        columns=(
            *(
                "cell",
                "evaluated every",
                "study",
                "trials measured",
                "updates per trial",
                f"seconds of {N_OURS} trials",
            ),
            *("trials per hour", "ours is faster by"),
        ),
        rows=rows,
        notes="The idiomatic study is `benchmarks/idiomatic.py`: Ray Tune, OptunaSearch, MLflowLoggerCallback and "
        "torch's modules, on the same task, sizes, updates, evaluations and cores. Seconds are those of the whole "
        f"command; of theirs the trials count {N_OURS}/{N_THEIRS} times, start and end once. A trial of ours ends "
        "when an evaluation finds that it has solved the ladder, theirs do not; evaluated at their ends only, all make "
        "the same updates unless they diverge. Ours has `look_back: 3`, which keeps two workers busy.",
    )


def overhead() -> Section:
    """Where the worker seconds of a study go."""
    rows = []
    for cell in ("elman_tanh", "lstm"):
        _compile(cell)
        run = launch(_spec(cell, 4 * N_OURS, N_UPDATES), N_WORKERS)
        whole = N_WORKERS * run.wall_s
        spent = {name: run.seconds[name] / whole for name in ("training", "evaluation", "error_flow", "tracking")}
        other = 1 - spent["training"] - spent["evaluation"] - spent["error_flow"]
        shares = [*spent.values(), other]
        rows.append((cell, str(4 * N_OURS), f"{run.wall_s:.0f}", *(f"{100 * share:.1f} %" for share in shares)))
    return Section(
        title="Where the time goes: shares of a study's wall time, two workers, 2,000 updates per trial",
        command="make bench ARGS=overhead",
        columns=(
            "cell",
            "trials",
            "seconds",
            "training",
            "evaluation",
            "error flow",
            "tracking",
            "neither of the first three",
        ),
        rows=rows,
        notes="Wall time is that of the whole command: imports, Ray's start, the search, waiting and the end. Tracking "
        "is processor time of the process that carries entries to MLflow, its imports included.",
    )


def growth() -> Section:
    """What a further trial costs, and the driver's memory, in ever larger studies of short trials."""
    rows = []
    _compile("elman_tanh")
    for stack_size, n_workers in ((8, 1), (8, 2), (256, 1)):
        numbers = GROWTH[stack_size]
        specs = {n: _spec("elman_tanh", n, 100, n_hidden=16, length=20, stack_size=stack_size) for n in numbers}
        runs = {n: [launch(specs[n], n_workers) for _ in range(n_runs)] for n, n_runs in numbers.items()}
        seconds = {n: median(run.wall_s for run in runs[n]) for n in numbers}
        costs = [(seconds[n] - seconds[fewer]) / (n - fewer) for fewer, n in pairwise(numbers)]
        columns = [("", ""), *((f"{1e3 * cost:.0f}", f"{cost / costs[0]:.2f}") for cost in costs)]
        for n, column in zip(numbers, columns, strict=True):
            peaks = [max(run.driver_mib for run in runs[n]), max(run.tracking_mib for run in runs[n])]
            words = (f"{seconds[n]:.1f}", *column, *(f"{peak:.0f}" for peak in peaks))
            rows.append((str(stack_size), str(n_workers), str(n), *words))
    return Section(
        title="Growth: short trials (16 units, 100 updates of 20 steps)",
        command="make bench ARGS=growth",
        columns=(
            *("stacks of", "workers", "trials", "seconds", "ms per further trial", "times the first"),
            *("driver's peak MiB", "tracking's peak MiB"),
        ),
        rows=rows,
        notes="Seconds are those of the whole command, which waits at its end until MLflow has everything, but no more "
        "than a minute; medians of three but in the largest study. A further trial is one beyond those "
        "of the row above, so that no start is counted.",
    )


@cache
def _compile(cell: str) -> None:
    """Have a cell's kernels compiled, lest the first study after an installation tell of that."""
    launch(_spec(cell, 1, 20), 1)


def launch(spec: dict[str, object], n_workers: int) -> Run:
    """Run a study of ours as a user does, in a new data directory."""
    with tempfile.TemporaryDirectory(prefix="longlag-bench-") as folder:
        file, home = Path(folder) / "bench.yaml", Path(folder) / "home"
        file.write_text(yaml.safe_dump(spec), encoding="utf-8")
        command = [sys.executable, "-m", "study.cli", "--home", str(home), "launch", str(file)]
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--workers", str(n_workers)], stdout=subprocess.DEVNULL)
        driver_mib = tracking_mib = 0.0
        while process.returncode is None:
            driver_mib = max(driver_mib, _peak_mib(process.pid))
            tracking_mib = max([tracking_mib, *(_peak_mib(child) for child in _trackers(process.pid))])
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
        wall_s = time.perf_counter() - began
        if process.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} must end well, but its exit status is {process.returncode}")
        client = connect(f"sqlite:///{home / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("bench")
        runs = runs_of(client, experiment.experiment_id)
        made = [run.data.metrics["n_updates"] for run in runs if "mlflow.parentRunId" in run.data.tags]
        (metrics,) = [run.data.metrics for run in runs if "mlflow.parentRunId" not in run.data.tags]
    seconds = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("seconds/")}
    return Run(
        wall_s=wall_s,
        seconds=seconds,
        driver_mib=driver_mib,
        tracking_mib=tracking_mib,
        n_updates=sum(made) / len(made),
    )


def idiomatic(cell: str, n_trials: int, n_updates: int, evaluate_every: int, option: str) -> tuple[float, float]:
    """Run the idiomatic study in a process of its own: seconds of its start and end, and of its trials."""
    words = [cell, *map(str, (n_trials, n_updates, evaluate_every, N_WORKERS)), option]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.idiomatic", *words], stdout=subprocess.PIPE, check=True, text=True
    )
    wall_s = time.perf_counter() - began
    trials_s: float = json.loads(done.stdout.strip().splitlines()[-1])["trials_s"]
    return wall_s - trials_s, trials_s


def _trackers(driver: int) -> list[int]:
    """The process of a study's driver that tracks, if it runs."""
    lists = (_text(file) for file in Path(f"/proc/{driver}/task").glob("*/children"))
    children = [int(word) for words in lists for word in words.split()]
    return [child for child in children if "study.tracking" in _text(Path(f"/proc/{child}/cmdline")).split("\0")]


def _peak_mib(process: int) -> float:
    """The most memory that a process has had; 0 if it has ended. What ``wait4`` tells begins with its parent's."""
    lines = _text(Path(f"/proc/{process}/status")).splitlines()
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _spec(
    cell: str,
    n_trials: int,
    n_updates: int,
    *,
    n_hidden: int = 50,
    length: int = 100,
    evaluate_every: int = 500,
    stack_size: int = 8,
) -> dict[str, object]:
    return {
        "name": "bench",
        "task": {"name": "temporal_order"},
        "ladder": [length],
        "n_hidden": n_hidden,
        "training": {
            "n_updates": n_updates,
            "lengths": length,
            "report_every": min(500, n_updates),
            "evaluate_every": min(evaluate_every, n_updates),
        },
        "search": {"n_trials": n_trials, "stack_size": stack_size, "look_back": N_WORKERS + 1},
        "models": {"net": {"cell": cell}},
        "space": {
            "init": "orthogonal",
            "init_scale": {"low": 0.5, "high": 1.5, "log": True},
            "learning_rate": {"low": 3e-4, "high": 0.03, "log": True},
            "optimiser": {"choices": ["sgd", "nesterov", "rmsprop", "adam"]},
            "dropout": "none",
            "omega_weight": 0.0,
        },
    }
