"""Results as tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table: what it shows, the command that makes it, its columns and rows, and what must be said about it."""

    title: str
    command: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str = ""

    def markdown(self) -> str:
        """The section as Markdown."""
        lines = [f"## {self.title}", "", f"`{self.command}`", ""]
        if self.rows:
            lines += [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows), ""]
        return "\n".join([*lines, self.notes, ""] if self.notes else lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
