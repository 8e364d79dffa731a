"""``python -m benchmarks [SECTION ...]``: measure, print, and keep in ``benchmarks/RESULTS.md``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu import gpu
from benchmarks.kernels import kernels
from benchmarks.search import search
from benchmarks.studies import growth, overhead, throughput
from benchmarks.table import Section
from benchmarks.timing import machine
from benchmarks.updates import shapes, updates

SECTIONS: dict[str, Callable[[], Section]] = {
    "updates": updates,
    "shapes": shapes,
    "kernels": kernels,
    "throughput": throughput,
    "overhead": overhead,
    "growth": growth,
    "search": search,
    "gpu": gpu,
}

RESULTS = Path(__file__).parent / "RESULTS.md"

HEAD = """# Benchmarks

`make bench` measures all of it and writes this file; `make bench ARGS=SECTION` measures only one section.
"""


def main(names: list[str]) -> int:
    """Measure the named sections, or all."""
    unknown = sorted(set(names) - set(SECTIONS))
    if unknown:
        sys.stderr.write(f"bench: sections are {', '.join(SECTIONS)}, but got {', '.join(unknown)}\n")
        return 2
    kept = _kept()
    for name in names or SECTIONS:
        section = SECTIONS[name]()
        text = f"{section.markdown()}\nMachine: {machine()}.\n"
        sys.stdout.write(text + "\n")
        # What cannot run here may have run on another machine.
        if section.rows or name not in kept:
            kept[name] = text
        ordered = [f"<!-- {one} -->\n{kept[one]}" for one in SECTIONS if one in kept]
        RESULTS.write_text("\n".join([HEAD, *ordered]), encoding="utf-8")
    return 0


def _kept() -> dict[str, str]:
    """Sections of an earlier run by name."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"<!-- (\w+) -->\n", RESULTS.read_text(encoding="utf-8"))[1:]
    return {name: text.rstrip("\n") + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
