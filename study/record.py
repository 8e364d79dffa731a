"""What is known of a trial, read back from the search storage: the value that queries and reports work on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from study.outcome import Outcome, Status, TrialKey
from study.plan import Parameter


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial: its key, parameters, status, and its outcome once it has one.

    ``seed`` is that of the member's own random streams; ``run_id`` is the tracking store's, once known.
    """

    key: TrialKey
    parameters: Mapping[str, Parameter]
    seed: int
    status: Status
    outcome: Outcome | None
    run_id: str | None
