"""``python -m reproductions.shared_weights``: does sharing keep errors alive? Tables of docs/shared_weights.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import machine
from models.activation import ACTIVATIONS
from reproductions.flow_figure import flow_figure, save
from reproductions.sharing import LEARNING_RATES, N_UPDATES, TASKS, Case, Run, compare
from reproductions.sharing_tables import Found, differences, initial, outcomes, swept, trained

REPORT = Path(__file__).parents[1] / "docs" / "shared_weights.md"

MARK = "<!-- tables -->\n"
"""Below this line the report is the command's, above it ours: conclusions are no output of a program."""


def measured() -> Found:
    """All networks that are trained, by case and kind."""
    found: dict[tuple[Case, str], Sequence[Run]] = {}
    for task in TASKS:
        for optimiser in LEARNING_RATES:
            for units in ACTIVATIONS:
                found |= compare(task, units, optimiser)
    return found


def tables(found: Found) -> str:
    """All that the command measures, and on which machine."""
    sections = [initial(), differences(found), outcomes(found)]
    for task, lengths in N_UPDATES.items():
        sections += [trained(found, task, length, n_updates=most) for length, most in lengths.items()]
    sections.append(swept())
    return "\n".join([*(section.markdown() for section in sections), f"Machine: {machine()}.\n"])


def main() -> int:
    """Train all of it, print the tables and keep them, and the figure, below what the report says of them."""
    said, mark, _ = REPORT.read_text(encoding="utf-8").partition(MARK)
    if not mark:
        sys.stderr.write(f"{REPORT} must have the line {MARK.strip()} where tables begin, but has none\n")
        return 2
    found = measured()
    text = tables(found)
    sys.stdout.write(text)
    REPORT.write_text(said + mark + text, encoding="utf-8")
    save(flow_figure({(case, kind): runs for (case, kind), runs in found.items() if case.shorter}), figure_path())
    return 0


def figure_path() -> Path:
    """Where the figure stands, beside the report."""
    return REPORT.with_suffix(".png")


if __name__ == "__main__":
    sys.exit(main())
