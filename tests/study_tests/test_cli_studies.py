"""Commands about studies that exist, or nearly: what is refused, what is told, and what Ctrl-C leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.storages import BaseStorage

from study import running, study_file
from study.errors import UserError
from study.execution import cluster
from study.execution import run as execution
from study.exported import write_export
from study.outcome import Outcome, Status, failed_outcome
from study.search.catalogue import Catalogue, StudyState
from study.search.model_search import ModelSearch
from study.search.storage import open_storage
from study.session import Session
from study.settings import read_settings
from study.spec import Spec
from study.study_file import dump_spec, load_spec
from study.tracking.server import connect, embedded_uri, find_run, runs_of, trial_key
from study.tracking.sink import MlflowSink
from study_tests.cli_book import Call, assert_refused
from study_tests.mlflow_book import OUTCOME, ThreadShipping
from tasks_tests.data_files import write_letters


def test_queries_refuse_what_does_not_exist(longlag: Call, tmp_path: Path) -> None:
    assert_refused(longlag("best"), "the best trials need one that has ended")
    for words in (["best", "x"], ["status", "x"], ["show", "x", "1"], ["export", "x", "1"], ["stop", "x"]):
        assert_refused(longlag(*words), "there must be a study first")
    assert_refused(longlag("resume", "x"), "there must be a study first")
    assert_refused(longlag("ui"), "the UI needs a data directory")
    assert_refused(longlag("evaluate", "nowhere"), "an exported trial is needed", "nowhere/study.yaml")
    assert_refused(longlag("best", "--task", "adding2"), "unknown task 'adding2'", "did you mean 'adding'")
    assert not list(tmp_path.iterdir())


def test_queries_say_what_a_study_has_not_got_yet(longlag: Call, tmp_path: Path) -> None:
    spec = load_spec("demo")
    (tmp_path / ".longlag").mkdir()
    catalogue = Catalogue(open_storage(f"sqlite:///{tmp_path}/.longlag/search.db"))
    catalogue.create("demo", specification=dump_spec(spec), device="cpu")
    assert_refused(longlag("launch", "demo", "--trials", "3"), "'demo' exists with another", "--name")
    assert_refused(longlag("best", "demo"), "need one that has ended", "study demo")
    assert_refused(longlag("best", "--model", "lstn"), "unknown model 'lstn'", "did you mean 'lstm'")
    assert_refused(longlag("best", "--min-length", "9", "--task", "adding"), "none with task adding, a length of")
    assert_refused(longlag("status", "dem"), "unknown study 'dem'", "did you mean 'demo'")
    assert_refused(longlag("show", "demo", "7"), "MODEL/NUMBER", "tanh_elman", "'7'")
    assert_refused(longlag("show", "demo", "lstn/7"), "MODEL/NUMBER", "'lstn/7'")
    assert_refused(longlag("show", "demo", "lstm/7"), "model lstm must have trials", "none yet")
    assert_refused(longlag("export", "demo", "lstm/7"), "model lstm must have trials", "none yet")
    code, printed, _ = longlag("status", "demo")
    assert code == 0
    assert "0 of 96 trials" in printed
    assert "no trial ended" in printed


def end_a_trial(storage: BaseStorage, spec: Spec) -> None:
    plan = spec.plan("cpu")
    search = ModelSearch(storage, spec.name, plan.seed, plan.search, plan.model("lstm"))
    search.ask(1)
    search.save({0: Outcome(status=Status.COMPLETE, dependency_length=8, skill=0.5, diverged=False, n_updates=4000)})
    search.tell([0])


def test_replicate_refuses_a_study_that_is_still_searched(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / ".longlag").mkdir()
    catalogue = Catalogue(open_storage(f"sqlite:///{tmp_path}/.longlag/search.db"))
    catalogue.create("demo", specification=dump_spec(load_spec("demo")), device="cpu")
    catalogue.acquire("demo")
    assert_refused(longlag("replicate", "demo"), "only a study that is done or stopped", "'demo' is running")


def test_replicate_refuses_a_bad_name_and_makes_a_good_one_of_a_long_one(longlag: Call, tmp_path: Path) -> None:
    home, spec = tmp_path / ".longlag", load_spec("demo", name="n" * 64)
    home.mkdir()
    storage = open_storage(f"sqlite:///{home}/search.db")
    catalogue = Catalogue(storage)
    catalogue.create(spec.name, specification=dump_spec(spec), device="cpu")
    catalogue.release(spec.name, catalogue.acquire(spec.name), StudyState.STOPPED)
    end_a_trial(storage, spec)
    for name in ("a/b", "", "n" * 65):
        assert_refused(
            longlag("replicate", spec.name, "--name", name), "name must be 1 to 64 letters, digits", repr(name)
        )
    assert [path.name for path in home.iterdir()] == ["search.db"]
    again = Session(read_settings(home)).replicated(spec.name, 2)
    assert (len(again.name), list(again.models)) == (64, ["lstm"])


def test_a_study_whose_task_is_gone_is_named_and_the_others_are_shown(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / ".longlag").mkdir()
    storage = open_storage(f"sqlite:///{tmp_path}/.longlag/search.db")
    catalogue, here = Catalogue(storage), load_spec("demo", name="here")
    text = dump_spec(here)
    catalogue.create("gone", specification=text.replace("name: temporal_order", "name: boom"), device="cpu")
    catalogue.create("here", specification=text, device="cpu")
    end_a_trial(storage, here)
    for words in (["list"], ["best", "--format", "csv"]):
        code, printed, complaint = longlag(*words)
        assert code == 0
        assert "here" in printed
        assert "gone" not in printed
        assert complaint.startswith("study 'gone': ")
        assert "unknown task 'boom'" in complaint
    assert_refused(longlag("status", "gone"), "study 'gone': ", "unknown task 'boom'")


def test_resume_refuses_a_study_whose_file_has_changed(
    longlag: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is trained: each launch stops at once."""
    monkeypatch.setattr("study.execution.cluster.connect", lambda *_: nullcontext(SimpleNamespace(device="cpu")))
    monkeypatch.setattr("study.execution.run.run", lambda *_, **__: None)
    text = write_letters(tmp_path)
    task = f"task={{name: text, path: {text}}}"
    assert longlag("launch", "demo", "--set", task)[0] == 130
    before = text.read_bytes()
    text.write_bytes(before[:-1] + b"z")
    assert_refused(longlag("resume", "demo"), "data must stay as it was", "'demo'", "task text", "--name")
    assert_refused(longlag("launch", "demo", "--set", task), "data must stay as it was")
    text.write_bytes(before)
    assert longlag("resume", "demo")[0] == 130


def test_export_refuses_a_folder_that_cannot_be_made(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = load_spec("demo")
    for folder in ("file", "file/below", "/proc/nowhere"):
        with pytest.raises(UserError, match=r"^the folder to export to must be (new or empty|writable), but .* is not"):
            write_export(Path(folder), spec, {}, lambda part: None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_evaluate_refuses_what_is_no_export(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "study.yaml").write_bytes(b"\xff\xfe\x00")
    assert_refused(longlag("evaluate", "x"), "must be text in UTF-8")
    write_export(tmp_path / "y", load_spec("demo"), {}, lambda part: (part / "weights.safetensors").write_text("no"))
    assert_refused(longlag("evaluate", "y"), "must be a safetensors file")


def test_resume_sends_what_the_tracking_server_has_not_taken(longlag: Call, tmp_path: Path, free_port: int) -> None:
    home, spec = tmp_path / ".longlag", load_spec("demo", ["models={lstm: {cell: lstm}}", "search.sampler=random"])
    home.mkdir()
    uri = f"sqlite:///{home}/search.db"
    catalogue = Catalogue(open_storage(uri))
    catalogue.create("demo", specification=dump_spec(spec), device="cpu")
    owner, plan = catalogue.acquire("demo"), spec.plan("cpu")
    search = ModelSearch(open_storage(uri), "demo", plan.seed, plan.search, plan.models[0])
    key = search.ask(1)[0].key
    search.save({key.number: OUTCOME})
    search.tell([key.number])
    catalogue.release("demo", owner, StudyState.DONE)
    sink = MlflowSink(home / "spool" / "demo", ThreadShipping(f"http://127.0.0.1:{free_port}"), study="demo")
    sink.open_study(parameters={}, specification="name: demo")
    sink.close_trials([(key, OUTCOME, None)])
    sink.close_study(status="done")
    assert sink.close(0) == 3
    assert_refused(longlag("export", "demo", "lstm/0"), "only a trial that MLflow has can be exported")
    code, _, complaint = longlag("resume", "demo")
    assert code == 0
    assert complaint == ""
    client = connect(embedded_uri(home))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    runs = {trial_key(run): run for run in runs_of(client, experiment.experiment_id)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert [record.run_id for record in catalogue.records("demo")] == [runs[key].info.run_id]
    assert find_run(embedded_uri(home), key) == runs[key].info.run_id
    assert find_run(embedded_uri(home), replace(key, number=1)) is None


@pytest.mark.parametrize("beside", [False, True])
def test_a_study_of_which_all_trials_of_a_model_failed_says_why_and_ends_with_exit_code_1(
    longlag: Call, tmp_path: Path, beside: bool
) -> None:
    models = "models={lstm: {cell: lstm}, gru: {cell: gru}}" if beside else "models={lstm: {cell: lstm}}"
    settings = [models, "search.n_trials=2", "search.sampler=random"]
    spec, uri = load_spec("demo", settings), f"sqlite:///{tmp_path}/.longlag/search.db"
    (tmp_path / ".longlag").mkdir()
    catalogue = Catalogue(open_storage(uri))
    catalogue.create("demo", specification=dump_spec(spec), device="cpu")
    owner, plan = catalogue.acquire("demo"), spec.plan("cpu")
    search = ModelSearch(open_storage(uri), "demo", plan.seed, plan.search, plan.models[0])
    for reason in (
        "Traceback (most recent call last):\n  File\nValueError: the well is dry\n",
        "RuntimeError: another",
    ):
        number = search.ask(1)[0].key.number
        search.save({number: failed_outcome(reason)})
        search.tell([number])
    if beside:
        # One model that has measured something does not make up for the other.
        search = ModelSearch(open_storage(uri), "demo", plan.seed, plan.search, plan.models[1])
        for _ in range(2):
            number = search.ask(1)[0].key.number
            search.save({number: OUTCOME})
            search.tell([number])
    catalogue.release("demo", owner, StudyState.DONE)
    sentence = "all 2 trials failed: ValueError: the well is dry (`longlag show demo lstm/0` tells more)"
    code, printed, _ = longlag("resume", "demo")
    assert code == 1
    assert sentence in printed
    assert "no trial ended" not in printed
    assert ("best configurations" in printed) is beside
    code, printed, _ = longlag("status", "demo")
    assert code == 0
    assert sentence in printed
    assert_refused(longlag("best", "demo", "--model", "lstm"), sentence)
    if not beside:
        assert_refused(longlag("best", "demo"), sentence)
        assert_refused(longlag("replicate", "demo"), sentence)


def interrupt(*passed: object, **named: object) -> None:
    """As a terminal does for Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on a cluster of one worker that is not there."""

    @contextmanager
    def connect(*passed: object) -> Iterator[cluster.Cluster]:
        yield cluster.Cluster(device="cpu", n_workers=1, n_cpus=1, n_gpus=0)

    monkeypatch.setattr(cluster, "connect", connect)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(("module", "name"), [(study_file, "extend_registries"), (cluster, "Cluster")])
def test_launch_stops_in_one_sentence_when_it_is_interrupted_before_training(
    longlag: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    before = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *passed, **named: (interrupt(), before(*passed, **named))[1])
    code, _, sentence = longlag("launch", "demo")
    assert (code, sentence) == (130, "longlag: interrupted before training began: nothing has changed\n")
    assert longlag("list")[1] == f"no studies yet in {tmp_path / '.longlag'}\n"


@pytest.mark.usefixtures("no_ray")
def test_launch_interrupted_twice_leaves_a_study_that_can_be_stopped_or_taken_up(
    longlag: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "FLUSH_S", 0.0)
    monkeypatch.setattr(execution, "run", lambda *passed, **named: (interrupt(), interrupt()))
    code, _, sentence = longlag("launch", "demo")
    assert (code, sentence) == (
        130,
        "longlag: interrupted at once; `longlag resume demo` takes up what study demo has\n",
    )
    header = Catalogue(open_storage(f"sqlite:///{tmp_path}/.longlag/search.db")).get("demo")
    assert (header.state, header.owner) == (StudyState.INTERRUPTED, None)
    monkeypatch.setattr(execution, "run", interrupt)
    assert longlag("resume", "demo")[0] == 130
    assert "study demo is stopped" in longlag("status", "demo")[1]
