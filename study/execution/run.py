"""Running a conductor's stacks on a Ray cluster until the study is done or stopped."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner

from study.collector import imports_frozen
from study.conductor import Conductor
from study.execution.cluster import Cluster
from study.execution.searcher import MAX_RESTARTS, Events, StackSearcher, Stops
from study.execution.trainable import STACK, StackTrainable

_MLFLOW_LOGGER = "ray.air.integrations.mlflow"


def run(
    conductor: Conductor, cluster: Cluster, *, name: str, weights: Path, cache: Path, stop: threading.Event
) -> None:
    """Train all stacks that the conductor hands out, on a cluster that this process is connected to.

    Args:
        conductor: the study.
        cluster: what to train on.
        name: of the study; names its folder in the cache.
        weights: where workers leave those of members; on a cluster of several machines a path that all of them share.
        cache: where Tune keeps what nobody reads back; shared as well.
        stop: set from outside to put all stacks down.

    Raises:
        Exception: what the search or the tracking of the study raised; the stacks are put down by then.
    """
    # What fails is told as a trial's reason or as the study's error; the terminal belongs to the live table.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    weights.mkdir(parents=True, exist_ok=True)
    for left_behind in cache.glob(f"{name}-{8 * '[0-9a-f]'}"):
        # By a process that was killed.
        shutil.rmtree(left_behind, ignore_errors=True)
    folder = f"{name}-{uuid.uuid4().hex[:8]}"
    searcher = StackSearcher(conductor, str(weights), stop)
    tuner = Tuner(
        tune.with_resources(StackTrainable, {"cpu": cluster.n_cpus, "gpu": cluster.n_gpus}),
        tune_config=TuneConfig(
            search_alg=searcher,
            # As many as the searcher has.
            num_samples=-1,
            max_concurrent_trials=cluster.n_workers,
            reuse_actors=True,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=RunConfig(
            name=folder,
            storage_path=str(cache),
            stop=Stops(searcher, stop),
            callbacks=[Events(searcher)],
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    try:
        with _without_mlflow(), imports_frozen():
            tuner.fit()
    finally:
        shutil.rmtree(cache / folder, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """Let Tune find no MLflow, unless somebody has imported it.

    Tune looks whether a callback is its own logger for MLflow, and would import all of that to know: most of a second
    and 36 MiB of a driver that has a process for it.
    """
    if "mlflow" in sys.modules:
        yield
        return
    # An import of what is None there fails.
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import_module(_MLFLOW_LOGGER)
    finally:
        del sys.modules["mlflow"]
    try:
        yield
    finally:
        # Whoever asks for it next is to find MLflow.
        sys.modules.pop(_MLFLOW_LOGGER, None)


def _name(trial: tune.experiment.Trial) -> str:
    stack = trial.config[STACK]
    what = "waiting" if stack is None else f"{stack.model}-{stack.members[0].number}"
    return f"{what}-{trial.trial_id}"
