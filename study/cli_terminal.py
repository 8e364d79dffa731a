"""The terminal that commands write to, and the session they ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from study.session import Session

# A pipe or a file has no width: tables get one at which they need not fold.
out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
err = Console(stderr=True, highlight=False)

home: list[Path | None] = [None]
"""The data directory that the command line names."""

Trial = Annotated[str, typer.Argument(help="MODEL/NUMBER, or NUMBER in a study of one model.")]


def session() -> Session:
    """A session in that data directory; its import takes a second, and no `--help` needs it."""
    from study.session import Session
    from study.settings import read_settings

    return Session(read_settings(home[0]))
