"""The study that a good engineer would write without longlag: Ray Tune, OptunaSearch, an MLflow callback, nn modules.

Run as a process of its own, it prints one line of JSON: trials, seconds from the first trial's start to the end of the
last, and seconds before that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import mlflow
import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from benchmarks.networks import Classifier, Sequence
from study.training.draw import StreamDraws, keys
from tasks import TASKS, Batch

N_HIDDEN, N_SEQUENCES, LENGTH, REPORT_EVERY, N_FINAL, CHUNK = 50, 20, 100, 500, 10_000, 250
OPTIMISERS = {
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate),
    "nesterov": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True),
    "rmsprop": lambda parameters, rate: torch.optim.RMSprop(parameters, lr=rate),
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate),
}


class Training(tune.Trainable):
    """One network, trained from report to report; a class, so that Tune may reuse its process."""

    def setup(self, config: dict[str, Any]) -> None:
        """Build network and optimiser."""
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self._task = TASKS["temporal_order"]()
        self._stream, self._n_batches = keys((config["seed"],), "batch"), count()
        recurrence = Sequence(config["cell"], self._task.n_in, N_HIDDEN)
        for name, weight in recurrence.named_parameters():
            if "weight_hh" in name:
                with torch.no_grad():
                    for block in weight.split(N_HIDDEN):
                        nn.init.orthogonal_(block, config["init_scale"])
        self._network = Classifier(recurrence, N_HIDDEN, self._task.n_out)
        self._optimiser = OPTIMISERS[config["optimiser"]](self._network.parameters(), config["learning_rate"])
        self._n_updates, self._budget, self._evaluate_every = 0, config["n_updates"], config["evaluate_every"]
        # Tune and Optuna want the metric in every report.
        self._last_error = 1.0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in this process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next report; the error is that of the last evaluation, at the end on 10,000 fresh sequences."""
        total = 0.0
        for _ in range(REPORT_EVERY):
            batch = self._draw(N_SEQUENCES)
            self._optimiser.zero_grad()
            logits = self._network(one_hot(batch.inputs, self._task.n_in).float())
            loss = cross_entropy(logits, batch.targets[0])
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
            self._optimiser.step()
            total += loss.item()
        self._n_updates += REPORT_EVERY
        done = self._n_updates >= self._budget
        if self._n_updates % self._evaluate_every == 0:
            self._last_error = self._error(N_FINAL if done else 1000)
        mean_loss = total / REPORT_EVERY
        return {"loss": mean_loss, "gradient_norm": float(norm), "done": done, "error": self._last_error}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The network, for the MLflow callback's artifacts."""
        torch.save(self._network.state_dict(), Path(checkpoint_dir) / "model.pt")

    def load_checkpoint(self, checkpoint: str) -> None:
        """What ``save_checkpoint`` wrote."""
        self._network.load_state_dict(torch.load(Path(checkpoint) / "model.pt"))

    def _draw(self, n_sequences: int) -> Batch:
        return self._task.sample(StreamDraws(self._stream, next(self._n_batches), n_sequences), LENGTH)

    @torch.inference_mode()
    def _error(self, n_sequences: int) -> float:
        n_failed = 0
        for _ in range(n_sequences // CHUNK):
            batch = self._draw(CHUNK)
            logits = self._network(one_hot(batch.inputs, self._task.n_in).float())
            n_failed += int((logits.argmax(-1) != batch.targets[0]).sum())
        return n_failed / n_sequences


class Trials(tune.Callback):
    """Notes when the first trial starts, and when the last one ends."""

    started_s: float | None = None
    ended_s: float = 0.0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial starts."""
        self.started_s = self.started_s or time.perf_counter()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ends."""
        self.ended_s = time.perf_counter()


def main(cell: str, n_trials: int, n_updates: int, evaluate_every: int, n_workers: int, *, reuse_actors: bool) -> None:
    """Run the study and print what it took."""
    space = {
        "cell": cell,
        "n_updates": n_updates,
        "evaluate_every": evaluate_every,
        "seed": 1,
        "init_scale": tune.loguniform(0.5, 1.5),
        "learning_rate": tune.loguniform(3e-4, 0.03),
        "optimiser": tune.choice(list(OPTIMISERS)),
    }
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        # The callback takes an experiment as it is; one that it made would put its artifacts where the process runs.
        mlflow.create_experiment(cell, artifact_location=f"file://{folder}/artifacts")
        ray.init(num_cpus=n_workers, include_dashboard=False, log_to_driver=False, logging_level="error")
        noted = Trials()
        tracking = MLflowLoggerCallback(tracking_uri=uri, experiment_name=cell, save_artifact=True)
        options = {"reuse_actors": True} if reuse_actors else {}
        tuner = tune.Tuner(
            tune.with_resources(Training, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="error",
                mode="min",
                search_alg=OptunaSearch(),
                num_samples=n_trials,
                max_concurrent_trials=n_workers,
                **options,
            ),
            run_config=tune.RunConfig(
                storage_path=f"{folder}/tune",
                callbacks=[tracking, noted],
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=True),
            ),
        )
        results = tuner.fit()
        ray.shutdown()
    if results.errors or noted.started_s is None:
        raise RuntimeError(f"every trial must end well, but got {results.errors}")
    print(json.dumps({"n_trials": len(results), "trials_s": noted.ended_s - noted.started_s}))  # noqa: T201


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    trials, updates, every, workers = map(int, sys.argv[2:6])
    main(sys.argv[1], trials, updates, every, workers, reuse_actors=sys.argv[6] == "reuse")
