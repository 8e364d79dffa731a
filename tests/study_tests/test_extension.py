"""Tasks and cells from outside: those of docs/extending.md, installed as it says, listed and trained by the service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from models import CELLS
from study import cli_query, extension
from study.errors import UserError
from study.extension import extend_registries
from study_tests.service_book import catalogue, longlag
from tasks import DATASETS, TASKS

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def files() -> dict[str, str]:
    """The files that stand on the page: a block of text by the name at the end of its heading."""
    parts = re.findall(r"^## [^\n]*: (\S+)\n.*?^```\w+\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return dict(parts)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the page's package."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, content in files().items():
        (source / name).write_text(content)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test enters does not stay."""
    before = [(registry, set(registry)) for registry in (TASKS, DATASETS, CELLS)]
    yield
    for registry, names in before:
        for name in registry.keys() - names:
            del registry[name]


def test_a_study_of_a_task_and_a_cell_from_outside_runs(installed: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(installed), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "mine.yaml").write_text(files()["mine.yaml"])
    home, words = tmp_path / "home", ("launch", str(tmp_path / "mine.yaml"), "--workers", "1")
    done = longlag(home, *words, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = [record.outcome for record in catalogue(home).records("mine")]
    # Four steps are the lag at the ladder's end; a network that has learned nothing has 0.
    assert max(outcome.dependency_length for outcome in outcomes if outcome is not None) == 4, done.stdout


@pytest.mark.usefixtures("registries")
def test_what_comes_from_outside_is_listed_with_its_source(
    installed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(installed)
    cli_query.tasks()
    cli_query.models()
    listed = capfd.readouterr().out
    assert re.search(r"first_bit +2 +docs/extending.md", listed), listed
    assert re.search(r"independent +no +Li et al. 2018, IndRNN", listed), listed


def test_the_pages_cell_passes_the_pages_test(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    test = {"__name__": "test_independent"}
    exec(files()["test_independent.py"], test)
    test["test_passes_are_the_step_under_autograd"]()


Declare = Callable[..., None]


@pytest.fixture
def declare(registries: None, monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declare an entry point, and nothing else, on the objects of a module."""

    def declared(group: str, name: str, value: str, **objects: object) -> None:
        monkeypatch.setitem(sys.modules, "outside", SimpleNamespace(**objects))
        point = EntryPoint(name=name, value=value, group=group)
        monkeypatch.setattr(extension, "entry_points", lambda group: [point] if group == point.group else [])

    return declared


def test_what_is_declared_is_entered_and_stays_when_it_is_met_again(declare: Declare) -> None:
    declare("longlag.cells", "mine", "outside:CELL", CELL=CELLS["gru"])
    declare("longlag.cells", "mine", "outside:CELL", CELL=CELLS["gru"])
    extend_registries()
    extend_registries()
    assert CELLS["mine"] is CELLS["gru"]


@pytest.mark.parametrize(
    ("group", "name", "value", "sentence"),
    [
        ("cells", "mine", "nowhere:CELL", "mine = 'nowhere:CELL' in longlag.cells must be there .*No module named"),
        ("cells", "mine", "outside:NONE", "must be there to be imported, but that fails: .*no attribute 'NONE'"),
        ("cells", "mine", "models.gru:Gru", "must be an instance of models.cell.Cell, but it is <class"),
        ("tasks", "mine", "outside:CELL", "must be a subclass of tasks.Task, but it is <"),
        ("datasets", "mine", "tasks.latch:Latch", "must be a subclass of tasks.Dataset, but it is <class"),
        ("cells", "lstm", "outside:CELL", "must bear a name of its own, but 'lstm' is taken"),
    ],
)
def test_what_cannot_be_entered_is_refused_in_a_sentence(
    declare: Declare, group: str, name: str, value: str, sentence: str
) -> None:
    declare(f"longlag.{group}", name, value, CELL=CELLS["gru"])
    with pytest.raises(UserError, match=sentence):
        extend_registries()


def test_a_module_that_raises_when_it_is_imported_is_refused_in_a_sentence(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    declare("longlag.cells", "mine", "broken:CELL")
    with pytest.raises(UserError, match="must be there to be imported, but that fails: ZeroDivisionError: division by"):
        extend_registries()


def test_the_page_points_to_files_that_there_are() -> None:
    for name in re.findall(r"\]\(\.\./(\S+?)\)", PAGE.read_text()):
        assert (PAGE.parents[1] / name).is_file(), name
