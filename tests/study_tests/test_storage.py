"""Opening a storage, and riding out its absence."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import event

from study.errors import LonglagError, UserError
from study.search import storage as storage_module
from study.search.rows import enter
from study.search.storage import every_trial, one_transaction, open_storage, persist
from study.settings import STORAGE, prepare_home, read_settings


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ("nonsense", UserError),
        ("postgresql+psycopg://someone:secret@127.0.0.1:9/none", LonglagError),
        ("postgresql+psycopg://someone:secret@127.0.0.1:port/none", UserError),
        ("mysql+nodriver://x/y", UserError),
        ("sqlite:////proc/none/search.db", UserError),
    ],
)
def test_open_storage_refuses_in_one_sentence_without_the_password(bad: str, kind: type[LonglagError]) -> None:
    with pytest.raises(LonglagError) as caught:
        open_storage(bad)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["feature%2Fx", "what?", "a b#c"])
def test_storage_of_a_data_directory_lies_in_it_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(STORAGE, raising=False)
    settings = read_settings(tmp_path / name)
    prepare_home(settings.home)
    assert settings.missing_file == tmp_path / name / "search.db"
    open_storage(settings.storage_uri).remove_session()
    assert settings.missing_file is None
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_open_storage_waits_while_another_process_creates_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    in_the_way = [
        IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: alembic_version.version_num")),
        OperationalError("CREATE TABLE", {}, Exception("table studies already exists")),
    ]
    real = storage_module.RDBStorage

    def contended(*args: object, **options: object) -> BaseStorage:
        if in_the_way:
            raise in_the_way.pop()
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage_module, "RDBStorage", contended)
    monkeypatch.setattr(storage_module, "CREATION_PAUSES_S", (0.0, 0.0))
    assert open_storage(f"sqlite:///{tmp_path / 'search.db'}").get_all_studies() == []


def test_one_transaction_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    storage, other = (open_storage(f"sqlite:///{tmp_path / 'search.db'}") for _ in range(2))
    study = optuna.create_study(storage=storage, study_name="s")
    id_ = study._study_id

    def killed() -> None:
        with one_transaction(storage):
            storage.create_new_trial(id_)
            storage.set_study_user_attr(id_, "a", 1)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed()
    assert (other.get_n_trials(id_), other.get_study_user_attrs(id_)) == (0, {})
    with one_transaction(storage):
        for _ in range(3):
            storage.create_new_trial(id_)
        # An error in it undoes no more than what raised it.
        with pytest.raises(KeyError):
            storage.set_trial_user_attr(10**6, "a", 1)
        assert (storage.get_n_trials(id_), other.get_n_trials(id_)) == (3, 0)
    assert other.get_n_trials(id_) == 3
    # Afterwards every call is a transaction again.
    storage.create_new_trial(id_)
    assert other.get_n_trials(id_) == 4


@pytest.mark.parametrize("together", [False, True])
def test_a_transaction_that_the_database_gives_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    id_ = optuna.create_study(storage=storage, study_name="s")._study_id
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"a": 4000 * "x"})
    room = [0]

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {room[0]}")

    event.listen(storage.engine, "checkout", limit)
    with storage.engine.connect() as connection:
        room[0] = connection.exec_driver_sql("PRAGMA page_count").scalar_one() + 5
    monkeypatch.setattr(optuna.storages._rdb.storage.time, "sleep", lambda seconds: None)

    def fill() -> None:
        with one_transaction(storage):
            if together:
                enter(storage, id_, 10 * [trial], 0)
            else:
                for _ in range(10):
                    storage.create_new_trial(id_, trial)

    # The disk is full after some trials, and by giving these up there is room for the others.
    with pytest.raises(StorageInternalError, match="full"):
        fill()
    assert storage.get_n_trials(id_) == 0
    room[0] = 10**6
    fill()
    assert [one.number for one in storage.get_all_trials(id_)] == list(range(10))


@pytest.mark.parametrize("n_trials", [0, 1, 6, 7])
@pytest.mark.parametrize("span", [2, 10_000])
def test_every_trial_is_read_page_by_page_as_optuna_reads_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_trials: int, span: int
) -> None:
    monkeypatch.setattr(storage_module, "PAGE", 3)
    monkeypatch.setattr(storage_module, "SPAN", span)
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    studies = [optuna.create_study(storage=storage, study_name=name) for name in ("one", "other")]
    for number in range(n_trials):
        # The ids of one study's trials lie between those of the other's.
        for study in (*studies, *studies[: number % 2]):
            study.ask().suggest_float("x", 0, 1)
    for study in studies:
        assert list(every_trial(storage, study._study_id)) == study.trials


def test_a_trial_that_is_asked_while_a_page_is_read_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "PAGE", 3)
    storage = open_storage(f"sqlite:///{tmp_path / 'search.db'}")
    study = optuna.create_study(storage=storage, study_name="one")
    asked = [study.ask().number for _ in range(2)]
    id_of = storage.get_trial_id_from_study_id_trial_number

    def busy(study_id: int, number: int) -> int:
        try:
            return id_of(study_id, number)
        finally:
            if number == 2 and len(asked) == 2:
                asked.extend(study.ask().number for _ in range(5))

    monkeypatch.setattr(storage, "get_trial_id_from_study_id_trial_number", busy)
    assert [trial.number for trial in every_trial(storage, study._study_id)] == asked


def test_persist_rides_out_an_outage_and_gives_up_after_its_patience() -> None:
    from sqlalchemy.exc import OperationalError

    failures = [OperationalError("SELECT 1", {}, Exception("gone")) for _ in range(3)]

    def flaky() -> str:
        if failures:
            raise failures.pop()
        return "back"

    assert persist(flaky, pause_s=0.0) == "back"

    def dead() -> str:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    with pytest.raises(LonglagError, match="has not answered for 0 s: gone"):
        persist(dead, patience_s=0.0, pause_s=0.0)
