"""Where a study lies in MLflow: files are put where MLflow's client looks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from study.tracking import server
from study.tracking.sink import embedded_uri
from study_tests.mlflow_book import FIRST, FLUSH_S, OUTCOME, artifacts_of, card, run_of_trial, sink_of


@pytest.mark.parametrize("name", ["home", "ein Häuschen", "a+b=c & d"])
def test_upload_puts_files_where_mlflow_finds_them(tmp_path: Path, empty_database: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    shutil.copyfile(empty_database, home / "mlflow.db")
    sink = sink_of(home)
    sink.open_trial(card(FIRST))
    sink.close_trial(FIRST, OUTCOME, None)
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
