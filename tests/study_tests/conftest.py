"""What tests share: the command line, a home with an empty MLflow database, a client and a sink on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.tracking import place, server, shipper
from study.tracking.sink import MlflowSink, embedded_uri
from study_tests.cli_book import Call, caller
from study_tests.mlflow_book import sink_of


@pytest.fixture
def longlag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    return caller(tmp_path, monkeypatch, capfd)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to create."""
    home = tmp_path_factory.mktemp("template")
    server.connect(embedded_uri(home)).search_experiments()
    return home / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setattr(shipper, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(shipper, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(shipper, "LAST_WAIT_S", 0.05)
    monkeypatch.setattr(shipper, "EVERY_S", 0.01)
    monkeypatch.setattr(shipper, "HOLD_S", 0.0)
    monkeypatch.setattr(shipper, "ASKED_S", 0.0)
    return tmp_path


@pytest.fixture
def client(home: Path) -> MlflowClient:
    return server.connect(embedded_uri(home))


@pytest.fixture
def sink(home: Path) -> Iterator[MlflowSink]:
    made = sink_of(home)
    yield made
    made.close(0)


@pytest.fixture
def new_home(tmp_path: Path, empty_database: Path) -> Callable[[str], Path]:
    """Makes data directories, each with an empty database."""

    def make(name: str) -> Path:
        home = tmp_path / name
        home.mkdir()
        shutil.copyfile(empty_database, home / "mlflow.db")
        return home

    return make


@pytest.fixture(params=["rows", "client"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """New runs go to MLflow's tables together, and as a server gets them, one by one."""
    if request.param == "client":
        monkeypatch.setattr(place, "rows_of", lambda client, experiment_id: None)
