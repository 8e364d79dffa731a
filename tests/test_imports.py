"""Which file may import what: read from the source, imports inside functions included."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import pytest

from models.kernels.cpu.compiled import sources

ROOT = Path(__file__).parents[1]
ROOMS = ("tasks", "models", "study")
MAX_LINES = 300

MAY_IMPORT = {
    "tasks/*": {"tasks", "torch", "sklearn"},
    "models/*": {"models", "torch", "llvmlite", "numba", "numpy", "triton"},
    "study/training/*": {
        "study.training",
        "study.errors",
        "study.outcome",
        "study.plan",
        "study.seeds",
        "tasks",
        "models",
        "torch",
    },
}
"""For the rooms that hold the science: all that may be imported there besides the standard library."""

ADAPTERS = {"study.search", "study.tracking", "study.execution"}
"""Rooms that hide a vendor each; they do not know one another, or the hiding would be in vain."""

VENDORS = {
    "llvmlite": ("models/kernels/*",),
    "matplotlib": ("study/tracking/*",),
    "mlflow": ("study/tracking/*",),
    "numba": ("models/kernels/*",),
    "numpy": ("models/kernels/*", "study/search/*"),
    "optuna": ("study/search/*",),
    "pydantic": ("study/spec.py", "study/section.py", "study/study_file.py"),
    "ray": ("study/execution/*",),
    "rich": ("study/cli*.py", "study/console.py", "study/tables.py"),
    "sklearn": ("tasks/digits.py",),
    "sqlalchemy": ("study/search/*", "study/tracking/rows.py"),
    "triton": ("models/kernels/gpu/*",),
    "typer": ("study/cli*.py",),
    "yaml": ("study/study_file.py",),
}
"""The files that may import a vendor; no others may."""

AT_ONCE = ("study/cli*.py", {"rich", "typer"})
"""What the command line may import when it starts, of what is not ours; the rest would keep `--help` waiting."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported name, absolute and dotted; ``at_once``: executed when the module is imported."""

    file: PurePosixPath
    line: int
    name: str
    at_once: bool

    @property
    def standard(self) -> bool:
        """Whether it comes with Python."""
        return self.name.partition(".")[0] in sys.stdlib_module_names

    @property
    def vendor(self) -> str | None:
        """The package it comes from, if that is neither ours nor Python's."""
        top = self.name.partition(".")[0]
        return None if self.standard or top in ROOMS else top

    def stands_in(self, place: str) -> bool:
        """Whether its file matches a pattern, in which * stands for subfolders too."""
        return fnmatchcase(str(self.file), place)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}"


def _imports(root: Path) -> list[Import]:
    """All imports of all modules in the rooms below a folder."""
    return [found for file in _files(root) for found in _of_file(root, file)]


def _files(root: Path) -> list[PurePosixPath]:
    paths = (path for room in ROOMS for path in (root / room).rglob("*.py"))
    return sorted(PurePosixPath(path.relative_to(root).as_posix()) for path in paths)


def _of_file(root: Path, file: PurePosixPath) -> Iterator[Import]:
    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for name in _names(node, file):
            yield Import(file=file, line=getattr(node, "lineno", 0), name=name, at_once=at_once)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from walk(child, at_once and not deferred and not typing_only)

    yield from walk(ast.parse((root / file).read_text(encoding="utf-8")), at_once=True)


def _names(node: ast.AST, file: PurePosixPath) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            above = file.parts[: len(file.parts) - node.level] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from study import plan` imports study.plan; that a class is named like a module does no harm here.
            return [f"{origin}.{alias.name}" for alias in node.names]
        case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
            return [ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else "a computed name"]
    return []


def _within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _foreign_to_room(root: Path) -> list[str]:
    return [
        str(found)
        for found in _imports(root)
        for room, allowed in MAY_IMPORT.items()
        if found.stands_in(room) and not found.standard and not _within(found.name, allowed)
    ]


def _adapter_of_another(root: Path) -> list[str]:
    return [
        str(found)
        for found in _imports(root)
        for room in ADAPTERS
        if found.stands_in(room.replace(".", "/") + "/*") and _within(found.name, ADAPTERS - {room})
    ]


def _vendor_outside_its_room(root: Path) -> list[str]:
    return [
        str(found)
        for found in _imports(root)
        if found.vendor in VENDORS and not any(map(found.stands_in, VENDORS[found.vendor]))
    ]


def _vendor_before_a_command(root: Path) -> list[str]:
    place, allowed = AT_ONCE
    return [
        str(found)
        for found in _imports(root)
        if found.stands_in(place) and found.at_once and found.vendor is not None and found.vendor not in allowed
    ]


def _machine_code_of_unnamed_sources(root: Path) -> list[str]:
    imports = _imports(root)
    compiled = {found.file for found in imports if _within(found.name, {"models.kernels.cpu.compiled"})}
    named = {".".join(source.relative_to(ROOT).with_suffix("").parts) for source in sources()}
    return [
        str(found)
        for found in imports
        if found.file in compiled and found.name.startswith("models.") and not _within(found.name, named)
    ]


def _too_long(root: Path) -> list[str]:
    lengths = {file: len((root / file).read_text(encoding="utf-8").splitlines()) for file in _files(root)}
    return [f"{file}: {length} lines" for file, length in lengths.items() if length > MAX_LINES]


RULES: dict[str, Callable[[Path], list[str]]] = {
    "the rooms of the science import only what MAY_IMPORT names": _foreign_to_room,
    "an adapter knows no other adapter": _adapter_of_another,
    "each vendor is imported in its own room": _vendor_outside_its_room,
    "the command line starts without vendors": _vendor_before_a_command,
    "machine code is made of sources that name its folder": _machine_code_of_unnamed_sources,
    "no file is longer than a reader can hold": _too_long,
}

PLANTED = {
    "the rooms of the science import only what MAY_IMPORT names": [
        ("tasks/copy.py", "import models"),
        ("tasks/copy.py", "def sample():\n    from models.cell import Cell"),
        ("tasks/copy.py", "import numpy"),
        ("models/rnn.py", "from tasks import TASKS"),
        ("models/rnn.py", "from study import plan"),
        ("models/kernels/cpu/gru.py", "from study.plan import StackPlan"),
        ("models/kernels/gpu.py", "from ...study import plan"),
        ("models/rnn.py", "import importlib\nimportlib.import_module('study.plan')"),
        ("models/rnn.py", "import importlib\nname = 'study.plan'\nimportlib.import_module(name)"),
        ("models/rnn.py", "__import__('tasks')"),
        ("study/training/stack.py", "from study.spec import Spec"),
        ("study/training/stack.py", "from study import session"),
        ("study/training/stack.py", "from ..execution import run"),
        ("study/training/stack.py", "import safetensors"),
    ],
    "an adapter knows no other adapter": [
        ("study/search/space.py", "from study.tracking.sink import MlflowSink"),
        ("study/tracking/parts/sink.py", "from study import search"),
        ("study/execution/run.py", "def run():\n    from study.search import storage"),
    ],
    "each vendor is imported in its own room": [
        ("study/session.py", "import optuna"),
        ("study/execution/run.py", "def run():\n    from optuna.trial import Trial"),
        ("study/search/space.py", "import ray"),
        ("study/session.py", "from ray import tune"),
        ("models/gru.py", "from numba import njit"),
        ("tasks/copy.py", "from sklearn.datasets import load_digits"),
        ("study/report.py", "from matplotlib.figure import Figure"),
        ("study/execution/run.py", "if True:\n    import mlflow.entities"),
        ("study/plan.py", "from pydantic import BaseModel"),
        ("study/spec.py", "import yaml"),
        ("study/session.py", "class A:\n    import typer"),
        ("study/report.py", "from rich.table import Table"),
        ("study/session.py", "try:\n    pass\nfinally:\n    import sqlalchemy"),
    ],
    "the command line starts without vendors": [
        ("study/cli.py", "import torch"),
        ("study/cli_query.py", "from yaml import safe_load"),
        ("study/cli.py", "class Command:\n    import psutil"),
    ],
    "machine code is made of sources that name its folder": [
        (
            "models/kernels/cpu/new.py",
            "from models.kernels.cpu.compiled import compiled\nfrom models.initial import SLOW",
        ),
    ],
    "no file is longer than a reader can hold": [("study/long.py", "\n" * MAX_LINES + "pass")],
}
"""Violations of each rule: path and content of the file that breaks it."""

KEPT = [
    ("tasks/copy.py", "import math\nimport torch\nfrom tasks.task import Task\nfrom .task import Batch"),
    ("models/kernels/cpu.py", "from models.cell import Cell\nfrom ..cell import State"),
    (
        "models/kernels/cpu/new.py",
        "from models.kernels.cpu.compiled import compiled\nfrom ..coefficients import MATRIX",
    ),
    ("study/training/stack.py", "from study.plan import StackPlan\nfrom models import CELLS\nimport torch.nn"),
    ("study/search/space.py", "import optuna\nfrom study.search.storage import persist"),
    ("study/session.py", "from study.search import storage\nfrom study.tracking import sink"),
    ("study/cli.py", "import typer\ndef run():\n    import torch\nif TYPE_CHECKING:\n    import psutil"),
    ("study/long.py", "\n" * (MAX_LINES - 1) + "pass"),
]
"""A tree that breaks no rule."""


def _plant(root: Path, path: str, content: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_kept(rule: str) -> None:
    assert _files(ROOT)
    assert RULES[rule](ROOT) == []


@pytest.mark.parametrize("rule", RULES)
def test_rule_passes_a_tree_that_keeps_it(rule: str, tmp_path: Path) -> None:
    for path, content in KEPT:
        _plant(tmp_path, path, content)
    assert RULES[rule](tmp_path) == []


@pytest.mark.parametrize(("rule", "path", "content"), [(rule, *case) for rule in RULES for case in PLANTED[rule]])
def test_rule_finds_a_planted_violation(rule: str, path: str, content: str, tmp_path: Path) -> None:
    _plant(tmp_path, path, content)
    [violation] = RULES[rule](tmp_path)
    assert violation.startswith(f"{path}:")


def test_command_line_loads_none_of_the_slow_vendors_before_a_command() -> None:
    # What cli.py imports of ours must not bring them in either, which the source of cli.py alone cannot show.
    slow = "{'torch', 'ray', 'optuna', 'mlflow', 'matplotlib', 'numpy', 'pydantic', 'sqlalchemy', 'yaml'}"
    program = f"import sys, study.cli; print(sorted({slow} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
