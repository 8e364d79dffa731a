"""Bad input at the command line: one sentence, exit code 2, no traceback, nothing half-created."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

from study.hyperparameter import HYPERPARAMETERS
from study.spec import Spec
from study.study_file import SECTIONS, TOP, load_spec, parse_spec
from study_tests.cli_book import Call, assert_refused

SETTINGS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "unknown key": (["training.n_update=3"], ["unknown key 'n_update'", "did you mean 'n_updates'"]),
    "unknown section": (["traning.n_updates=3"], ["unknown key 'traning'", "did you mean 'training'"]),
    "unknown task": (["task.name=temporal_ordr"], ["unknown task", "did you mean 'temporal_order'"]),
    "unknown task parameter": (
        ["task.colour=red"],
        ["task temporal_order takes the parameters", "variant", "got colour='red'"],
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
    "nothing for a value": (["space.optimiser="], ["space.optimiser: a word or a number is needed", "got nothing"]),
    "nothing for a parameter": (
        ["task={name: long_lag, n_symbols: }"],
        ["task.n_symbols needs a value, but got nothing"],
    ),
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
    "a misspelt cell": (["models={a: {celll: gru}}"], ["unknown key 'celll'; did you mean 'cell'? (at models.a)"]),
    "three lengths": (["training.lengths=[5, 7, 10]"], ["training.lengths", "at most 2 items", "got [5, 7, 10]"]),
    "default lengths too short": (
        ["training={n_updates: 9}", "task={name: copy_delimiter}"],
        ["training.lengths (the default) of task copy_delimiter must be 21 or more, but got 10"],
    ),
    "lengths too short": (["training.lengths=[1, 10]"], ["must be", "or more", "got 1"]),
    "no updates": (["training.n_updates=0"], ["training.n_updates", "greater than or equal to 1", "got 0"]),
    "words for a number": (["training.n_updates=many"], ["training.n_updates", "valid integer", "'many'"]),
    "rungs beyond the budget": (["halving.rungs=[9000]"], ["halving.rungs", "below n_updates = 4000"]),
    "no models": (["models={}"], ["models must name at least one network", "it is empty"]),
    "bad model name": (["models.a/b={cell: gru}"], ["a model's name must be 1 to 200 letters", "'a/b'"]),
    "no model name": (["models={'': {cell: gru}}"], ["a model's name must be 1 to 200 letters", "''"]),
    "a folder's name": (["models={..: {cell: gru}}"], ["a model's name must be 1 to 200 letters", "'..'"]),
    "long model name": (["models." + 201 * "a" + "={cell: gru}"], ["a model's name must be 1 to 200 letters"]),
    "a day that is none": (["description=2001-13-45"], ["--set description must be a YAML value", "'2001-13-45'"]),
    "fast dropout of an LSTM": (["models.lstm.space.dropout=fast"], ["fast dropout needs one of the cells"]),
    "grid over an interval": (["search.sampler=grid"], ["sampler grid needs choices"]),
    "no value": (["ladder"], ["--set must be key=value", "'ladder'"]),
    "a value as a section": (["n_hidden.x=1"], ["n_hidden must be a section"]),
    "bad name": (["name='a b'"], ["name must be 1 to 64 letters, digits", "'a b'"]),
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
        (
            "[1, 2",
            "is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>' (line 1, ",
        ),
        ("- a\n- b", "must be a mapping"),
        ("name: x\nladder: [10]\nmodels: {a: {cell: gru}}", "the key task must be given"),
        ("name: x\ntask: {name: adding}\nladder: [10]\nmodels: {a: 3}", "models.a"),
        ("", "must be a mapping"),
        ("description: 2001-13-45", "is not valid YAML: month must be in 1..12"),
        ("[" * 3000, "is not valid YAML"),
        ("name: x\nname: y", "the key 'name' is given twice (line 2, column 1)"),
        ("task: &task {name: latch}\nx: {<<: *task, a: 1, 'a': 2}", "the key 'a' is given twice (line 2, column 22)"),
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
    assert_refused(result, "the storage postgresql+psycopg://me:***@127.0.0.1", "does not answer", code=1)
    assert "secret" not in result[2]
    monkeypatch.setenv("LONGLAG_STORAGE", "no-such-thing")
    assert_refused(longlag("launch", "demo"), "the storage must be a URL like")
    monkeypatch.setenv("LONGLAG_STORAGE", "postgresql+psycopg://me:secret@127.0.0.1:port/studies")
    result = longlag("launch", "demo")
    assert_refused(result, "the storage must be a URL like")
    assert "secret" not in result[2]
    monkeypatch.setenv("LONGLAG_STORAGE", "sqlite:////nowhere/at/all.db")
    assert_refused(longlag("launch", "demo"), "the storage sqlite:////nowhere/at/all.db does not answer")
    assert not Path("/nowhere").exists()


def test_launch_refuses_a_tracking_server_that_does_not_answer(
    longlag: Call, tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert_refused(longlag("launch", "demo"), "the tracking server must answer", uri, "Connection refused", code=1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://me:secret@x")
    assert_refused(longlag("launch", "demo"), "must be a URL that begins with http", "'gopher://me:***@x'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@[x")
    result = longlag("launch", "demo")
    assert_refused(result, "a tracking address must be a URL, but the one given is none: Invalid IPv6 URL")
    assert "secret" not in result[2]
    assert not list((tmp_path / ".longlag").iterdir())


def test_launch_refuses_a_cluster_that_is_not_there(longlag: Call, tmp_path: Path, free_port: int) -> None:
    result = longlag("launch", "demo", "--address", f"127.0.0.1:{free_port}")
    assert_refused(result, "there is no Ray cluster at", code=1)
    assert_refused(longlag("launch", "demo", "--address", "head"), "must be host:port", "'head'")
    assert not list((tmp_path / ".longlag").iterdir())
    assert longlag("list")[1] == f"no studies yet in {tmp_path / '.longlag'}\n"


def test_launch_refuses_a_home_that_cannot_be_written(longlag: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(longlag("--home", "file/home", "launch", "demo"), "the data directory must be writable")
    assert_refused(longlag("--home", "file", "list"), "the data directory must be a directory")


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


def test_the_list_of_tasks_says_what_a_parameter_may_be(longlag: Call) -> None:
    lines = [" ".join(line.split()) for line in longlag("tasks")[1].splitlines()]
    assert "temporal_order n_symbols 2 2, 3" in lines
    assert "long_lag n_symbols 100 a whole number" in lines
    assert "text path must be given a string" in lines


def test_the_readmes_study_file_is_one() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert [model.cell for model in parse_spec(example).plan("cpu").models] == ["elman_tanh", "lstm"]


def test_the_reference_of_study_files_has_every_key_and_its_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "study_file.md").read_text(encoding="utf-8")
    parts = dict(part.split("\n", 1) for part in f"the top level\n{text}".split("\n## "))
    sections: dict[str, type[BaseModel]] = {TOP: Spec, **SECTIONS}
    for name, section in sections.items():
        rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", parts[name], re.MULTILINE))
        fields = {key: field for key, field in section.model_fields.items() if key not in SECTIONS}
        assert rows.keys() == fields.keys()
        for key, field in fields.items():
            default = "must be given" if field.is_required() else str(field.default or "empty")
            assert rows[key] == ("empty" if field.default_factory else default), key


def test_hyperparameters_are_listed_with_where_they_are_searched(longlag: Call) -> None:
    code, printed, _ = longlag("hyperparameters")
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert code == 0
    assert any(line.startswith("learning_rate searched, 0.0005 to") for line in lines)
    assert any(line.startswith("weight_decay 0 0 to 1000 factor of the weights") for line in lines)
    assert any(line.startswith("dropout none none, dropout, fast kind of dropout") for line in lines)
    assert {line.split(" ")[0] for line in lines} >= set(HYPERPARAMETERS)


def test_presets_are_valid_and_say_what_they_do(longlag: Call) -> None:
    spec = load_spec("demo")
    assert spec.description
    assert spec.plan("cpu").search.n_trials >= 1


@pytest.mark.parametrize("words", [["--help"], ["presets"], ["models"]])
def test_a_reader_that_goes_away_ends_a_command_without_a_traceback(tmp_path: Path, words: list[str]) -> None:
    """As with ``longlag models | head -0``."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "study.cli", *words], stdout=pipe, stderr=subprocess.PIPE, check=False, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (1, b"")
