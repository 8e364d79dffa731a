"""Bad input at the command line: one sentence, exit code 2, no traceback, nothing half-created."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from study import cli, running, study_file
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
from study.study_file import dump_spec, load_spec
from study.tracking import ui
from study.tracking.server import connect, embedded_uri, runs_of
from study.tracking.sink import MlflowSink
from tasks_tests.data_files import write_letters

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def longlag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["longlag", *words])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


def assert_refused(result: tuple[int, str, str], *sayings: str) -> None:
    code, printed, sentence = result
    assert code == 2, result
    assert sentence.startswith("longlag: "), sentence
    assert sentence.count("\n") == 1, sentence
    assert "Traceback" not in sentence + printed
    for saying in sayings:
        assert saying in sentence, sentence


SETTINGS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "unknown key": (["training.n_update=3"], ["unknown key 'n_update'", "did you mean 'n_updates'"]),
    "unknown section": (["traning.n_updates=3"], ["unknown key 'traning'", "did you mean 'training'"]),
    "unknown task": (["task.name=temporal_ordr"], ["unknown task", "did you mean 'temporal_order'"]),
    "unknown task parameter": (
        ["task.colour=red"],
        ["parameters of task temporal_order are", "variant", "got colour='red'"],
    ),
    "task parameter of a wrong kind": (["task.name=latch", "task.signal_length=red"], ["signal_length='red'"]),
    "a number for a text's file": (["task={name: text, path: 5}"], ["path must be text, but got path=5"]),
    "a list for a text's file": (["task={name: text, path: [a]}"], ["path must be text, but got path=['a']"]),
    "a number for a file of rolls": (["task={name: piano_rolls, path: 5}"], ["path must be text, but got path=5"]),
    "unknown cell": (["models.lstm.cell=lstn"], ["unknown cell", "did you mean 'lstm'"]),
    "unknown optimiser": (["space.optimiser=adan"], ["unknown value 'adan'", "did you mean 'adam'"]),
    "unknown initialiser": (["space.init.choices=[gausian]"], ["did you mean 'gaussian'"]),
    "unknown hyperparameter": (["space.learning_rat=1"], ["did you mean 'learning_rate'"]),
    "unknown sampler": (["search.sampler=tpo"], ["search.sampler", "'tpe', 'random' or 'grid'", "'tpo'"]),
    "rate of zero": (["space.learning_rate=0"], ["learning_rate must be a number in (0, 1000]", "got 0"]),
    "probability of one": (["space.p_drop_input=1"], ["p_drop_input must be a number in [0, 1)", "got 1"]),
    "interval upside down": (["space.learning_rate={low: 1, high: 0.1}"], ["low < high must hold", "got 1 and 0.1"]),
    "log of zero": (["space.init_scale={low: 0, high: 1, log: true}"], ["low > 0 must hold with log"]),
    "half an interval": (["space.learning_rate={low: 0.1}"], ["learning_rate", "high"]),
    "a list of choices": (
        ["space.optimiser=[sgd, adam]"],
        ["space.optimiser: ", "{choices: [...]}", "['sgd', 'adam']"],
    ),
    "a list among choices": (
        ["space.init.choices=[[a]]"],
        ["space.init.choices.0: a word or a number is", "got ['a']"],
    ),
    "nothing for a value": (["space.optimiser="], ["space.optimiser: a word or a number is needed", "got None"]),
    "a bound beside choices": (
        ["space.init={choices: [sparse], low: 2}"],
        ["unknown key 'low'; there are choices (at space.init)"],
    ),
    "a task by its name": (["task=adding"], ["task must be a section, as in {name: ...}, but got 'adding'"]),
    "a model by its cell": (["models.a=gru"], ["models.a must be a section, as in {cell: ...}, but got 'gru'"]),
    "a list of models": (["models=[gru]"], ["models must be a section, as in {NAME: ...}, but got ['gru']"]),
    "a width in training": (
        ["training.n_hidden=8"],
        ["the key 'n_hidden' belongs to the top level or models.NAME, but it stands at training"],
    ),
    "updates at the top": (["n_updates=8"], ["'n_updates' belongs to training, but it stands at the top level"]),
    "a rate of a model": (["models.lstm.momentum=0"], ["'momentum' belongs to space, but it stands at models.lstm"]),
    "no choices": (["space.optimiser={choices: []}"], ["optimiser", "at least 1"]),
    "choices twice": (["space.optimiser={choices: [sgd, sgd]}"], ["choices must differ"]),
    "empty ladder": (["ladder=[]"], ["ladder must name at least one sequence length"]),
    "falling ladder": (["ladder=[20, 10]"], ["ladder must increase", "[20, 10]"]),
    "ladder below training": (["ladder=[8]"], ["ladder must reach the shortest training length 10", "8"]),
    "lengths too short": (["training.lengths=[1, 10]"], ["must be", "or more", "got 1"]),
    "no updates": (["training.n_updates=0"], ["training.n_updates", "greater than or equal to 1", "got 0"]),
    "words for a number": (["training.n_updates=many"], ["training.n_updates", "valid integer", "'many'"]),
    "rungs beyond the budget": (["halving.rungs=[9000]"], ["halving.rungs", "below n_updates = 4000"]),
    "no models": (["models={}"], ["models", "at least 1"]),
    "bad model name": (["models.a/b={cell: gru}"], ["a model's name must consist of", "'a/b'"]),
    "fast dropout of an LSTM": (["models.lstm.space.dropout=fast"], ["fast dropout needs one of the cells"]),
    "grid over an interval": (["search.sampler=grid"], ["sampler grid needs choices"]),
    "no value": (["ladder"], ["--set must be key=value", "'ladder'"]),
    "a value as a section": (["n_hidden.x=1"], ["n_hidden must be a section"]),
    "bad name": (["name='a b'"], ["name", "'a b'"]),
    "a truth for a number": (["training.batch_size=true"], ["training.batch_size", "valid integer", "True"]),
    "a broken count": (["training.batch_size=15e-1"], ["training.batch_size", "valid integer", "1.5"]),
    "a word for a count": (["training.n_updates='3'"], ["training.n_updates", "valid integer", "'3'"]),
    "a truth for a rate": (["space.learning_rate={low: 0.1, high: true}"], ["learning_rate.high", "number", "True"]),
    "seed below zero": (["seed=-1"], ["seed", "-1"]),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_launch_refuses_settings_that_make_no_sense(longlag: Call, tmp_path: Path, case: str) -> None:
    settings, sayings = SETTINGS[case]
    words = [word for setting in settings for word in ("--set", setting)]
    assert_refused(longlag("launch", "demo", *words), *sayings)
    assert not list(tmp_path.iterdir())


def test_launch_refuses_an_unknown_preset_with_the_nearest_name(longlag: Call, tmp_path: Path) -> None:
    assert_refused(longlag("launch", "demmo"), "unknown preset 'demmo'", "did you mean 'demo'")
    assert_refused(longlag("launch", "missing.yaml"), "there is no study file missing.yaml")
    assert_refused(longlag("launch", "demo", "--name", "a/b"), "name", "'a/b'")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "saying"),
    [
        ("[1, 2", "is not valid YAML"),
        ("- a\n- b", "must be a mapping"),
        ("name: x\nladder: [10]\nmodels: {a: {cell: gru}}", "the key task must be given"),
        ("name: x\ntask: {name: adding}\nladder: [10]\nmodels: {a: 3}", "models.a"),
        ("", "must be a mapping"),
        ("name: x\nname: y", "the key 'name' stands there twice"),
        ("task: &task {name: latch}\nx: {<<: *task, a: 1, 'a': 2}", "the key 'a' stands there twice"),
    ],
)
def test_launch_refuses_a_file_that_is_no_study(longlag: Call, tmp_path: Path, text: str, saying: str) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert_refused(longlag("launch", "study.yaml"), saying, "study.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_launch_refuses_a_file_that_is_not_text(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00")
    assert_refused(longlag("launch", "study.yaml"), "study.yaml")
    (tmp_path / "folder").mkdir()
    assert_refused(longlag("launch", "folder"), "study file folder cannot be read", "directory")


def test_launch_refuses_a_storage_that_does_not_answer(
    longlag: Call, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGLAG_STORAGE", f"postgresql+psycopg://me:secret@127.0.0.1:{free_port}/studies")
    result = longlag("launch", "demo")
    assert_refused(result, "the storage postgresql+psycopg://me:***@127.0.0.1", "does not answer")
    assert "secret" not in result[2]
    monkeypatch.setenv("LONGLAG_STORAGE", "no-such-thing")
    assert_refused(longlag("launch", "demo"), "the storage must be a URL like")
    monkeypatch.setenv("LONGLAG_STORAGE", "sqlite:////nowhere/at/all.db")
    assert_refused(longlag("launch", "demo"), "the storage sqlite:////nowhere/at/all.db does not answer")
    assert not Path("/nowhere").exists()


def test_launch_refuses_a_tracking_server_that_does_not_answer(
    longlag: Call, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert_refused(longlag("launch", "demo"), "the tracking server must answer", uri, "Connection refused")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://me:secret@x")
    assert_refused(longlag("launch", "demo"), "must be a URL that begins with http", "'gopher://me:***@x'")
    assert not list((tmp_path / ".longlag").iterdir())


def test_launch_refuses_a_cluster_that_is_not_there(longlag: Call, tmp_path: Path, free_port: int) -> None:
    assert_refused(longlag("launch", "demo", "--address", f"127.0.0.1:{free_port}"), "there is no Ray cluster at")
    assert_refused(longlag("launch", "demo", "--address", "head"), "must be host:port", "'head'")
    assert not list((tmp_path / ".longlag").iterdir())
    assert longlag("list")[1] == "no studies yet\n"


def test_launch_refuses_a_home_that_cannot_be_written(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(longlag("--home", "file/home", "launch", "demo"), "the data directory must be writable")
    assert_refused(longlag("--home", "file", "list"), "the data directory must be a directory")


def test_queries_refuse_what_does_not_exist(longlag: Call, tmp_path: Path) -> None:
    assert_refused(longlag("best"), "the best trials need one that has ended")
    for words in (["best", "x"], ["status", "x"], ["show", "x", "1"], ["export", "x", "1"], ["stop", "x"]):
        assert_refused(longlag(*words), "there must be a study first")
    assert_refused(longlag("resume", "x"), "there must be a study first")
    assert_refused(longlag("ui"), "the UI needs a data directory")
    assert_refused(longlag("evaluate", "nowhere"), "an exported trial is needed", "nowhere/study.yaml")
    assert_refused(longlag("best", "--task", "adding2"), "unknown task 'adding2'", "did you mean 'adding'")
    assert not list(tmp_path.iterdir())


def test_ui_refuses_a_port_in_use(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / ".longlag").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(longlag("ui", "--port", str(port)), f"127.0.0.1:{port} is none: Address already in use\n")
    assert_refused(longlag("ui", "--host", "no.such.host.invalid"), "no.such.host.invalid:5000 is none")


def test_ui_ends_as_the_server_does(
    longlag: Call, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".longlag").mkdir()
    monkeypatch.setattr(ui, "serve", lambda *passed, **named: 3)
    assert longlag("ui", "--port", str(free_port))[0] == 3


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
    plan = spec.plan("cpu")
    search = ModelSearch(storage, spec.name, plan.seed, plan.search, plan.model("lstm"))
    search.ask()
    search.save(0, Outcome(status=Status.COMPLETE, dependency_length=8, skill=0.5, diverged=False, n_updates=4000))
    search.tell(0)
    for name in ("a/b", "", "n" * 65):
        assert_refused(longlag("replicate", spec.name, "--name", name), "name: string should match pattern", repr(name))
    assert [path.name for path in home.iterdir()] == ["search.db"]
    again = Session(read_settings(home)).replicated(spec.name, 2)
    assert (len(again.name), list(again.models)) == (64, ["lstm"])


def test_list_names_a_study_whose_task_is_gone_and_shows_the_others(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / ".longlag").mkdir()
    catalogue = Catalogue(open_storage(f"sqlite:///{tmp_path}/.longlag/search.db"))
    text = dump_spec(load_spec("demo"))
    catalogue.create("gone", specification=text.replace("name: temporal_order", "name: boom"), device="cpu")
    catalogue.create("here", specification=text, device="cpu")
    code, printed, complaint = longlag("list")
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
    home = tmp_path / ".longlag"
    (tmp_path / ".longlag").mkdir()
    catalogue = Catalogue(open_storage(f"sqlite:///{home}/search.db"))
    catalogue.create("demo", specification=dump_spec(load_spec("demo")), device="cpu")
    catalogue.release("demo", catalogue.acquire("demo"), StudyState.DONE)
    sink = MlflowSink(f"http://127.0.0.1:{free_port}", home / "spool" / "demo", study="demo")
    sink.open_study(parameters={}, specification="name: demo")
    sink.close_study(status="done")
    assert sink.close(0) == 2
    code, printed, complaint = longlag("resume", "demo")
    assert code == 0
    # MLflow tells that it creates its tables.
    assert "MLflow lacks" not in complaint
    assert "no trial ended" in printed
    assert "best configurations" not in printed
    client = connect(embedded_uri(home))
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    assert [run.info.status for run in runs_of(client, experiment.experiment_id)] == ["FINISHED"]


def test_a_study_of_which_all_trials_failed_says_why_and_ends_with_exit_code_1(longlag: Call, tmp_path: Path) -> None:
    settings = ["models={lstm: {cell: lstm}}", "search.n_trials=2", "search.sampler=random"]
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
        number = search.ask().key.number
        search.save(number, failed_outcome(reason))
        search.tell(number)
    catalogue.release("demo", owner, StudyState.DONE)
    sentence = "all 2 trials failed: ValueError: the well is dry (`longlag show demo lstm/0` tells more)"
    code, printed, _ = longlag("resume", "demo")
    assert code == 1
    assert sentence in printed
    assert "no trial ended" not in printed
    assert "best configurations" not in printed
    code, printed, _ = longlag("status", "demo")
    assert code == 0
    assert sentence in printed
    assert_refused(longlag("best", "demo"), sentence)
    assert_refused(longlag("best", "demo", "--model", "lstm"), sentence)
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
    longlag: Call, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    before = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *passed, **named: (interrupt(), before(*passed, **named))[1])
    code, _, sentence = longlag("launch", "demo")
    assert (code, sentence) == (130, "longlag: interrupted before training began: nothing has changed\n")
    assert longlag("list")[1] == "no studies yet\n"


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


@pytest.mark.parametrize("words", [[], ["--help"], ["launch", "--help"], ["--version"]])
def test_help_answers(longlag: Call, words: list[str]) -> None:
    code, printed, sentence = longlag(*words)
    assert code == (0 if words else 2)
    assert "longlag" in printed + sentence


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["lunch"], "No such command"),
        (["launch"], "Missing argument"),
        (["launch", "demo", "--trials", "0"], "--trials"),
        (["launch", "demo", "--workers", "two"], "--workers"),
        (["best", "--format", "xml"], "--format"),
    ],
)
def test_wrong_words_are_refused(longlag: Call, words: list[str], saying: str) -> None:
    assert_refused(longlag(*words), saying)


@pytest.mark.parametrize("words", [["models"], ["tasks"], ["presets"]])
def test_lists_show_what_a_study_may_name(longlag: Call, words: list[str]) -> None:
    known = {"models": "lstm", "tasks": "temporal_order", "presets": "demo"}
    code, printed, _ = longlag(*words)
    assert code == 0
    assert known[words[0]] in printed


def test_presets_are_valid_and_say_what_they_do(longlag: Call) -> None:
    spec = load_spec("demo")
    assert spec.description
    assert spec.plan("cpu").search.n_trials >= 1


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As with ``longlag models | head -0``: no traceback."""
    done = subprocess.run(
        f"{sys.executable} -m study.cli --help | head -c 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        check=False,
        text=True,
        env={**os.environ, "LONGLAG_HOME": str(tmp_path)},
    )
    assert "Traceback" not in done.stderr


def test_help_imports_no_vendor() -> None:
    """``longlag --help`` answers at once because it loads neither torch nor Ray, Optuna or MLflow."""
    code = (
        "import sys, json; import study.cli; "
        "print(json.dumps([m for m in ('torch', 'ray', 'optuna', 'mlflow', 'pydantic') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout) == []
