"""A study in the hands of this process: its lease, search, tracking and signals, from taking it to letting it go."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from study.bridge import SinkTracker, described_plan
from study.conductor import Conductor
from study.course import Course
from study.lease import beating, stopping_on_signals
from study.plan import StudyPlan
from study.search.catalogue import Catalogue, StudyState
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study.settings import Settings
from study.spec import Spec
from study.study_file import dump_spec
from study.tracking.sink import MlflowSink, Shipping, embedded_uri, weights_folder

FLUSH_S = 60.0
"""Seconds that the end of a study waits for the tracking server; what is left then is sent by the next run."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a live display may read while a study runs.

    ``n_pending`` and ``tracking_error`` tell of the tracking, ``stopping`` whether the study has been asked to stop.
    """

    plan: StudyPlan
    courses: Mapping[str, Course]
    started_s: float
    n_settled_before: int
    n_pending: Callable[[], int]
    tracking_error: Callable[[], str | None]
    stopping: Callable[[], bool]


def tracking_uri(settings: Settings) -> str:
    """Where MLflow's data is."""
    return settings.tracking_uri or embedded_uri(settings.home)


def spool_of(settings: Settings, study: str) -> Path:
    """Where a study keeps what MLflow does not have yet."""
    return settings.home / "spool" / study


def weights_of(settings: Settings, study: str) -> Path:
    """Where workers put the weights of trials that have ended; MLflow gets them from there."""
    return weights_folder(spool_of(settings, study))


@contextmanager
def owned(
    settings: Settings, catalogue: Catalogue, spec: Spec, plan: StudyPlan, *, shipping: Shipping, stop: threading.Event
) -> Iterator[tuple[Conductor, Watched]]:
    """Hold a study: its lease, signals, tracking. Whatever happens inside, nothing is left without an owner.

    ``shipping`` ends with the study. ``stop`` is set when the study is asked to stop. An exception leaves it failed,
    but KeyboardInterrupt interrupted.
    """
    owner = catalogue.acquire(spec.name)
    state = StudyState.FAILED
    try:
        storage = open_storage(settings.storage_uri)
        searches = {model.name: ModelSearch(storage, spec.name, plan.seed, plan.search, model) for model in plan.models}
        sink = MlflowSink(spool_of(settings, spec.name), shipping, study=spec.name)
        sink.open_study(parameters=described_plan(plan), specification=dump_spec(spec.resolved()))
        conductor = Conductor(plan, searches, SinkTracker(sink, spec, plan))
        watched = Watched(
            plan=plan,
            courses=conductor.courses,
            started_s=time.monotonic(),
            n_settled_before=sum(course.n_settled for course in conductor.courses.values()),
            n_pending=sink.pending,
            tracking_error=sink.last_error,
            stopping=stop.is_set,
        )
        ending = StudyState.FAILED
        try:
            # Entered anew, for Ray has put a handler of its own when it started.
            with beating(catalogue, spec.name, owner, stop), stopping_on_signals(stop):
                yield conductor, watched
            ending = StudyState.DONE if conductor.done else StudyState.STOPPED
        except KeyboardInterrupt:
            ending = StudyState.INTERRUPTED
            raise
        finally:
            try:
                # A process that has taken the study over trains its open trials, and ends it.
                if catalogue.holds(spec.name, owner):
                    if not conductor.done:
                        conductor.interrupt()
                    seconds = {**conductor.seconds, "wall": time.monotonic() - watched.started_s}
                    sink.close_study(status=str(ending), outcomes=conductor.outcomes(), seconds=seconds)
            finally:
                n_left = sink.close(FLUSH_S)
                catalogue.attach_runs(sink.run_ids())
                if n_left == 0 and sink.last_error() is None and catalogue.holds(spec.name, owner):
                    # What is still there no trial has: its worker, or whoever ran the study before, was killed.
                    shutil.rmtree(weights_of(settings, spec.name), ignore_errors=True)
        # Only now: a study that is done is not taken up again, whatever its end has failed to write.
        state = ending
    except KeyboardInterrupt:
        state = StudyState.INTERRUPTED
        raise
    finally:
        catalogue.release(spec.name, owner, state)
