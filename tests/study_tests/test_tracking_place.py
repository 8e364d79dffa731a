"""Where a study lies in MLflow: files are put where MLflow's client looks for them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from study.outcome import TrialKey
from study.tracking import server
from study.tracking.database import follow_move
from study.tracking.sink import MlflowSink, download_weights, embedded_uri
from study_tests.mlflow_book import FIRST, FLUSH_S, OUTCOME, artifacts_of, card, run_of_trial, sink_of

pytestmark = pytest.mark.usefixtures("each_way")


@pytest.mark.parametrize("name", ["home", "ein Häuschen", "a+b=c & d", "a%2Fb?c#d"])
def test_upload_puts_files_where_mlflow_finds_them(tmp_path: Path, empty_database: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    shutil.copyfile(empty_database, home / "mlflow.db")
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    sink.close_trials([(FIRST, OUTCOME, None)])
    assert sink.close(FLUSH_S) == 0
    client = server.connect(embedded_uri(home))
    run = run_of_trial(client, FIRST)
    assert artifacts_of(client, run) == {
        "error_flow.json",
        "error_flow.svg",
        "ladder.svg",
        "lyapunov.json",
        "study.yaml",
    }
    assert Path(client.download_artifacts(run.info.run_id, "study.yaml")).read_text() == "name: 0\n"


def test_a_data_directory_can_be_moved_with_all_that_mlflow_lacks(tmp_path: Path, empty_database: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "moved"
    (home / "spool" / "weights").mkdir(parents=True)
    shutil.copyfile(empty_database, home / "mlflow.db")

    def leave(number: int) -> tuple[TrialKey, Path]:
        weights = home / "spool" / "weights" / f"{number}.safetensors"
        weights.write_bytes(b"%d" % number)
        return replace(FIRST, number=number), weights

    def fetched(key: TrialKey) -> bytes:
        run = run_of_trial(server.connect(embedded_uri(moved)), key)
        return download_weights(embedded_uri(moved), run.info.run_id, tmp_path / str(key.number)).read_bytes()

    first, sent = leave(0)
    sink = sink_of(home)
    sink.close_trials([(first, OUTCOME, sent)])
    assert sink.close(FLUSH_S) == 0
    second, kept = leave(1)
    # A driver that is killed before MLflow has its last trial.
    nobody = SimpleNamespace(begin=lambda spool, study: None, close=lambda timeout_s: None)
    sink = MlflowSink(home / "spool", nobody, study="demo")  # type: ignore[arg-type]
    sink.close_trials([(second, OUTCOME, kept)])
    assert sink.close(0) == 1
    home.rename(moved)
    assert fetched(first) == b"0"
    assert sink_of(moved).close(FLUSH_S) == 0
    assert fetched(second) == b"1"
    assert not home.exists()


def test_a_data_directory_that_is_copied_has_its_own_artifacts(tmp_path: Path, empty_database: Path) -> None:
    home, copied = tmp_path / "home", tmp_path / "copied"
    home.mkdir()
    shutil.copyfile(empty_database, home / "mlflow.db")

    def told(where: Path, number: int) -> Path:
        sink = sink_of(where)
        sink.close_trials([(replace(FIRST, number=number), OUTCOME, None)])
        assert sink.close(FLUSH_S) == 0
        run = run_of_trial(server.connect(embedded_uri(where)), replace(FIRST, number=number))
        return Path(url2pathname(urlsplit(run.info.artifact_uri).path))

    first = told(home, 0)
    shutil.copytree(home, copied)
    assert told(copied, 1).is_relative_to(copied)
    assert told(home, 2).is_relative_to(home)
    for number, place in enumerate((home, copied, home)):
        client = server.connect(embedded_uri(place))
        run = run_of_trial(client, replace(FIRST, number=number))
        assert "ladder.svg" in artifacts_of(client, run)
    assert (copied / first.relative_to(home)).is_dir()


def test_reading_a_moved_data_directory_leaves_its_database_as_it_is(tmp_path: Path, empty_database: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "moved"
    home.mkdir()
    shutil.copyfile(empty_database, home / "mlflow.db")
    sink = sink_of(home)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"tensors")
    sink.close_trials([(FIRST, OUTCOME, weights)])
    assert sink.close(FLUSH_S) == 0
    home.rename(moved)
    before = (moved / "mlflow.db").read_bytes()
    run = run_of_trial(server.connect(embedded_uri(moved)), FIRST)
    assert download_weights(embedded_uri(moved), run.info.run_id, tmp_path / "to").read_bytes() == b"tensors"
    assert (moved / "mlflow.db").read_bytes() == before
    follow_move(moved / "mlflow.db")
    client = server.connect(embedded_uri(moved))
    assert "ladder.svg" in artifacts_of(client, run_of_trial(client, FIRST))


def test_follow_move_leaves_a_file_alone_that_has_no_tables_yet(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.touch()
    follow_move(file)
    assert file.read_bytes() == b""
