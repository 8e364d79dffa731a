"""A study told to a sink on a real MLflow database, and what MLflow then holds."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from study.outcome import Metric, Outcome, Rung, Status, TrialKey
from study.tracking import server
from study.tracking.recorder import Recorder
from study.tracking.shipper import Shipper
from study.tracking.sink import MlflowSink, TrialCard, embedded_uri

FLUSH_S = 60.0

FIRST, SECOND = (TrialKey(study="demo", model="lstm", number=number) for number in (0, 1))

OUTCOME = Outcome(
    status=Status.COMPLETE,
    dependency_length=8,
    skill=0.25,
    diverged=False,
    n_updates=40,
    rungs=(
        Rung(length=10, lag=8, n_failed=5, n_sequences=1000),
        Rung(length=20, lag=16, n_failed=300, n_sequences=1000),
    ),
    confirmed=Rung(length=10, lag=8, n_failed=6, n_sequences=1000),
    error_flow=(1.0, 0.1, 0.0, math.inf),
    part_flow={"forget": (0.5, math.nan)},
    lyapunov=(0.25, -math.inf),
    metrics={"gradient/horizon": 2.0, "gradient/decay_rate": -0.1, "bound/vanishing": 0.0},
)


class ThreadShipping:
    """What ``Shipping`` does, but in a thread of this process, where a test can get at the clock and at MLflow."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.n_told = 0
        self.last_error: str | None = None

    def begin(self, spool: Path, study: str) -> None:
        self._recorder = Recorder(self._uri, study)
        self._shipper = Shipper(spool, self._recorder, self._tell)
        self._thread = threading.Thread(target=self._shipper.run, daemon=True)
        self._thread.start()

    def run_ids(self) -> dict[TrialKey, str]:
        return self._recorder.run_ids()

    def wait_for_a_look(self) -> None:
        """Until a look into the journal is over that began after this call."""
        before = self.n_told
        # Each look tells once, and once more if it ships anything; one look may be under way.
        wait_until(lambda: self.n_told >= before + 4)

    def close(self, timeout_s: float) -> None:
        self._shipper.close(timeout_s)
        self._thread.join(timeout_s)

    def _tell(self, error: str | None) -> None:
        self.last_error = error
        self.n_told += 1


def sink_of(home: Path, spool: Path | None = None) -> MlflowSink:
    return MlflowSink(spool or home / "spool", ThreadShipping(embedded_uri(home)), study="demo")


def card(key: TrialKey, **parameters: str | float | int) -> TrialCard:
    return TrialCard(key=key, task="adding", cell="lstm", parameters=parameters, configuration=f"name: {key.number}\n")


def reported(update: int, *values: float) -> list[Metric]:
    return [
        Metric(name=name, value=value, update=update, time_ms=1_000_000 + update)
        for name, value in zip(("loss", "interim/objective", "gradient/norm/rnn.weight_hh"), values, strict=False)
    ]


def tell_all(sink: MlflowSink, weights: Path | None) -> None:
    """A study of two trials with everything that can happen in it."""
    sink.open_study(parameters={"task": "adding"}, specification="name: demo\n")
    sink.open_trial(card(FIRST, learning_rate=0.1))
    sink.open_trial(card(SECOND, learning_rate=0.2))
    for update, loss, objective in ((10, 0.5, 1.0), (20, 0.1, 3.0), (30, 0.3, 2.0)):
        for key in (FIRST, SECOND):
            sink.log_metrics(key, reported(update, loss, objective, 7.5))
    sink.close_trials([(FIRST, OUTCOME, weights)])
    sink.interrupt_trial(SECOND)
    sink.close_study(status="stopped")


def run_of_trial(client: MlflowClient, key: TrialKey) -> Run:
    """The only run of a trial."""
    (run,) = [run for run in runs_of_study(client) if run.data.tags.get("longlag.trial") == str(key)]
    return run


def runs_of_study(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("demo")
    return [] if experiment is None else server.runs_of(client, experiment.experiment_id)


def artifacts_of(client: MlflowClient, run: Run) -> set[str]:
    return {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def everything(client: MlflowClient) -> list[tuple[Any, ...]]:
    """All that MLflow holds of the study, every value of every metric included."""
    return [
        (
            run.info.run_id,
            run.info.status,
            run.info.end_time,
            run.data.tags,
            run.data.params,
            {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics},
            artifacts_of(client, run),
        )
        for run in runs_of_study(client)
    ]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    deadline, pause = time.monotonic() + FLUSH_S, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.02)
