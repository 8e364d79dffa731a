"""The study's way to MLflow: calls that only write to a local journal, which a process carries to the server."""

from __future__ import annotations

import math
import posixpath
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from study.outcome import Ending, Metric, Outcome, TrialKey
from study.tracking.entry import (
    Entry,
    MetricsLogged,
    StudyClosed,
    StudyOpened,
    TrialCard,
    TrialClosed,
    TrialInterrupted,
    TrialOpened,
    encode,
    model_answers,
)
from study.tracking.journal import Journal, n_pending, unsent, weights_folder
from study.tracking.server import check_tracking, download_weights, embedded_uri, find_run
from study.tracking.shipping import Shipping

__all__ = [
    "MlflowSink",
    "Shipping",
    "TrialCard",
    "check_tracking",
    "download_weights",
    "embedded_uri",
    "find_run",
    "unsent",
    "weights_folder",
]

_NAME = re.compile(r"[A-Za-z0-9_\-. :/]{1,250}")


class MlflowSink:
    """Records one study in MLflow: an experiment of its name, a parent run, and under it a run for each trial.

    No call waits for the server or fails because of it. What is written survives the death of this process and is
    shipped by the next sink on the same folder. MLflow learns of a trial's end within seconds, of one under way about
    twice a minute. Metrics that are not a number are left out (a chart would break the line there anyway);
    infinite ones are sent as they are: MLflow stores them as +-1.797e308, which its charts show as infinite.

    Every call but ``close``, ``pending``, ``last_error`` and ``run_ids`` raises LonglagError if the folder's disk is
    full or broken; what had been written before stays. Entries are for one thread to write.
    """

    def __init__(self, spool: Path, shipping: Shipping, *, study: str) -> None:
        """Start recording, first of all what a dead process left in the folder.

        Args:
            spool: folder of the journal, created if missing; one process at a time can use it.
            shipping: what carries it to MLflow, and carries nothing yet.
            study: name of the study.

        Raises:
            LonglagError: the folder is not writable, or in use.
        """
        self._spool, self._shipping = spool, shipping
        self._journal = Journal(spool)
        shipping.begin(spool, study)
        self._valid: set[str] = set()

    def open_study(self, *, parameters: Mapping[str, str], specification: str) -> None:
        """The study begins, or goes on; ``specification`` is kept as the artifact ``study.yaml``."""
        self._append(StudyOpened(time_ms=_now_ms(), parameters=dict(parameters), specification=specification))

    def open_trial(self, card: TrialCard) -> None:
        """A trial has been asked, or taken up again: it gets a run, or its run is set running again.

        MLflow learns of it with its first metrics, or after five minutes; of one that has a run after half a minute.
        """
        plain = TrialCard(
            key=card.key,
            task=card.task,
            cell=card.cell,
            parameters=dict(card.parameters),
            configuration=card.configuration,
        )
        self._append(TrialOpened(time_ms=_now_ms(), card=plain))

    def log_metrics(self, key: TrialKey, metrics: Sequence[Metric]) -> None:
        """Values that a trial has reported, in non-decreasing order of updates.

        Raises:
            ValueError: a name is none that MLflow accepts.
        """
        for metric in metrics:
            self._check_name(metric.name)
        numbers = tuple(metric for metric in metrics if not math.isnan(metric.value))
        if numbers:
            self._append(MetricsLogged(key=key, metrics=numbers))

    def close_trials(self, ended: Sequence[Ending]) -> None:
        """Trials have ended.

        Of an outcome, metrics go to the run as far as they are final: the last reported values are there already. The
        file of the weights is uploaded as ``weights.safetensors``, then deleted.
        """
        self._append(
            *(
                TrialClosed(
                    time_ms=_now_ms(),
                    key=key,
                    outcome=outcome,
                    weights=None if weights is None else str(weights.absolute()),
                )
                for key, outcome, weights in ended
            )
        )

    def interrupt_trial(self, key: TrialKey) -> None:
        """A trial is left for a later resumption; its run is killed until then."""
        self._append(TrialInterrupted(time_ms=_now_ms(), key=key))

    def close_study(
        self,
        *,
        status: str,
        outcomes: Mapping[TrialKey, Outcome] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """The study has ended, for now or for good.

        Args:
            status: ``done`` finishes the parent run, ``failed`` fails it, anything else kills it.
            outcomes: of all trials that have ended, in this process or an earlier one; the figure that answers who
                learned how long a dependency is drawn from them, for which ``Outcome.outline`` is enough of all but the
                best of each model. None are no figure.
            seconds: what this process and its workers have spent their time on; metrics ``seconds/...`` of the study.
        """
        answers = model_answers(outcomes or {})
        self._append(StudyClosed(time_ms=_now_ms(), status=status, answers=answers, seconds=dict(seconds or {})))

    def run_ids(self) -> dict[TrialKey, str]:
        """The runs of the trials, as far as they are known yet."""
        return self._shipping.run_ids()

    def pending(self) -> int:
        """Entries that are kept on disk, because MLflow does not have them or some that were written before them."""
        return n_pending(self._spool)

    def last_error(self) -> str | None:
        """What keeps entries from MLflow, in one line; None while nothing does."""
        return self._shipping.last_error

    def close(self, timeout_s: float) -> int:
        """Wait at most this long for MLflow to have everything; how many entries are left in the spool."""
        self._shipping.close(timeout_s)
        self._journal.close()
        return n_pending(self._spool)

    def _append(self, *entries: Entry) -> None:
        # What a power failure may take until another entry comes or it is shipped: metrics, which come by the thousand,
        # cost a point of a curve each, and openings are made again by whoever takes the study up.
        durable = any(not isinstance(entry, MetricsLogged | TrialOpened) for entry in entries)
        self._journal.append(b"".join(map(encode, entries)), durable=durable)

    def _check_name(self, name: str) -> None:
        if name in self._valid:
            return
        if not _NAME.fullmatch(name) or posixpath.normpath(name) != name or name.startswith((".", "/")):
            raise ValueError(
                "a metric's name must be a relative path of at most 250 letters, digits, '_', '-', '.', ' ', ':' and "
                f"'/', but got {name!r}"
            )
        self._valid.add(name)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
