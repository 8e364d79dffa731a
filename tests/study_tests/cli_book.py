"""The command line in this process, and what a refusal looks like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study import cli

Call = Callable[..., tuple[int, str, str]]


def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process; returns exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    # This process does not begin here.
    monkeypatch.setattr(cli, "spare_imports", lambda: None)

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


def assert_refused(result: tuple[int, str, str], *sayings: str, code: int = 2) -> None:
    ended_with, printed, sentence = result
    assert ended_with == code, result
    assert sentence.startswith("longlag: "), sentence
    assert sentence.count("\n") == 1, sentence
    assert "Traceback" not in sentence + printed
    for saying in sayings:
        assert saying in sentence, sentence
