"""Runs as rows of MLflow's database: whoever dies or is refused leaves no half of one, and the next one all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import event
from sqlalchemy.engine import Engine

from study.tracking import recorder, server
from study.tracking.entry import (
    Entry,
    StudyClosed,
    StudyOpened,
    TrialClosed,
    TrialOpened,
)
from study.tracking.place import Place
from study.tracking.recorder import Recorder
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import OUTCOME, card, run_of_trial
from study_tests.rows_book import BEGUN_MS, assert_equal, files_of, key_of, record_all, study_of, tables_of


class _KilledError(BaseException):
    """What no code catches."""


@contextmanager
def _killed_at(n_points: int) -> Iterator[list[int]]:
    """Die at a point: before a statement or a commit, before or after an upload; how many points there were."""
    passed = [0]

    def point(*_: object) -> None:
        passed[0] += 1
        if passed[0] == n_points:
            raise _KilledError

    upload = Place.upload

    def uploading(*args: Any) -> None:
        point()
        upload(*args)
        point()

    hooks = ("before_cursor_execute", "commit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "upload", uploading)
        for name in hooks:
            event.listen(Engine, name, point)
        try:
            yield passed
        finally:
            for name in hooks:
                event.remove(Engine, name, point)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_wherever_recording_dies_the_next_time_leaves_all_of_it_once(
    new_home: Callable[[str], Path], share: float
) -> None:
    """It dies while it records what comes after a share of the entries."""

    def ended(home: Path) -> list[Entry]:
        entries = study_of(9, home / "weights")
        return [entry for entry in entries if not isinstance(entry, StudyClosed)]

    def record(home: Path, entries: list[Entry], n_points: int) -> int:
        early = int(share * len(entries))
        if early:
            record_all(embedded_uri(home), entries[:early], 1)
        with _killed_at(n_points) as points:
            record_all(embedded_uri(home), entries[early:], 1)
        return points[0]

    whole = new_home("whole")
    n_points = record(whole, ended(whole), 0)
    expected = tables_of(embedded_uri(whole), {whole.as_uri(): "home"})
    assert n_points > 40
    for n in range(1, n_points + 1, 4):
        home = new_home(str(n))
        entries = ended(home)
        with pytest.raises(_KilledError):
            record(home, entries, n)
        for entry in entries:
            # What MLflow lacks is still there.
            if isinstance(entry, TrialClosed) and not Path(str(entry.weights)).exists():
                run = run_of_trial(server.connect(embedded_uri(home)), entry.key)
                assert run.info.status in {"FINISHED", "FAILED"}
        record_all(embedded_uri(home), entries, 1)
        assert_equal(tables_of(embedded_uri(home), {home.as_uri(): "home"}), expected)
        assert files_of(home) == files_of(whole)


def test_a_trial_of_which_a_part_cannot_be_written_is_not_there_at_all(home: Path, client: MlflowClient) -> None:
    weights = home / "w.safetensors"
    weights.write_bytes(b"tensors")
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    before = tables_of(embedded_uri(home))
    entry = TrialClosed(time_ms=BEGUN_MS, key=key_of(0), outcome=OUTCOME, weights=str(weights))
    room = [1]

    def refuse(connection: object, cursor: object, statement: str, *_: object) -> None:
        if room and "INSERT INTO latest_metrics" in statement:
            raise sqlalchemy.exc.OperationalError(statement, {}, Exception("no room"))

    event.listen(Engine, "before_cursor_execute", refuse)
    try:
        with pytest.raises(MlflowException, match="no room"):
            made.record([entry])
        assert tables_of(embedded_uri(home)) == before
        assert weights.read_bytes() == b"tensors"
        assert made.run_ids() == {}
        room.clear()
        made.forget()
        made.record([entry])
    finally:
        event.remove(Engine, "before_cursor_execute", refuse)
    run = run_of_trial(client, key_of(0))
    assert run.info.status == "FINISHED"
    assert not weights.exists()
    # The files that the first try has left are those of this run.
    assert {name for name, *_ in files_of(home)} == {"demo", "lstm/0"}


def test_new_trials_cost_a_few_statements_whatever_their_number(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 10)
    made = Recorder(embedded_uri(home), "demo")
    made.record([StudyOpened(time_ms=BEGUN_MS, parameters={}, specification="")])
    keys = [key_of(number) for number in range(35)]
    with _killed_at(0) as points:
        made.record([TrialClosed(time_ms=BEGUN_MS, key=key, outcome=OUTCOME, weights=None) for key in keys])
    n_uploads = 2 * len(keys)
    # Of each group 3 transactions, two of which read, 3 settings of SQLite's in each, 5 tables and what is read.
    assert points[0] - n_uploads <= 4 * 25
    assert made.run_ids().keys() == set(keys)


def test_trials_that_have_runs_cost_a_few_statements_whatever_their_number(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "TOGETHER", 10)
    made = Recorder(embedded_uri(home), "demo")
    keys = [key_of(number) for number in range(35)]
    made.record([TrialOpened(time_ms=BEGUN_MS, card=card(key)) for key in keys])
    with _killed_at(0) as points:
        made.record([TrialClosed(time_ms=BEGUN_MS, key=key, outcome=OUTCOME, weights=None) for key in keys])
    # Of each group one transaction with 3 settings: 4 tables are read and written, two of them updated too, and runs.
    assert points[0] - 2 * len(keys) <= 4 * 18
    assert {run_of_trial(server.connect(embedded_uri(home)), key).info.status for key in keys[:2]} == {"FINISHED"}
