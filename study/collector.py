"""Python's garbage collector, in processes whose imports alone make half a million objects that stay."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL, _SPARING = gc.get_threshold(), 50_000
"""When the collector looks at young objects: as the process had it, and after how many new ones while it imports."""


def spare_imports() -> None:
    """Spare a process that begins the search of what it will import, of which hardly anything is garbage.

    That would be a fifth of the time of the imports and, when Python ends, up to a second more: what its last search
    would free one by one the system takes back at once.
    """
    gc.set_threshold(_SPARING)
    atexit.register(gc.freeze)


@contextmanager
def imports_frozen() -> Iterator[None]:
    """Spare the collector what is in memory when the body begins, one body at a time.

    The collector leaves old cycles alone until there are a quarter as many new ones: garbage that a driver would carry
    to the end of any but the largest study. And each of MLflow's rows is many objects, so that it would look through
    all that was imported time and again, for a fifth of the time that the rows themselves take. What is left it looks
    at as often as it did before ``spare_imports``.
    """
    before = gc.get_threshold()
    gc.freeze()
    try:
        if before[0] == _SPARING:
            gc.set_threshold(*_USUAL)
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
