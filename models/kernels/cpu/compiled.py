"""How the kernels are compiled: once per machine and version of their source, for each precision."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
from numba import njit, types
from numba.core import event


def compiled(function: Callable[..., None] | None = None, *, reassociate: bool = False) -> Any:
    """A function of arrays and numbers as machine code, which runs without holding Python's lock.

    Multiplications and additions may be contracted, and sums be taken in another order if ``reassociate`` is set or an
    intrinsic says so of its own; beside that every operation is IEEE's, non-finite numbers included. The code is kept
    in the user's cache folder. Numba looks only at a function's own file to see whether its code is stale, so that the
    folder is named by the content of all ``sources``.
    """
    if function is None:
        return partial(compiled, reassociate=reassociate)
    fastmath = {"contract", "reassoc"} if reassociate else {"contract"}
    dispatcher = njit(nogil=True, error_model="numpy", fastmath=fastmath)(function)
    dispatcher.get_call_template = partial(_call_template, dispatcher)
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = _FOLDER
    try:
        dispatcher.enable_caching()
    finally:
        numba.config.CACHE_DIR = before
    return dispatcher


def _call_template(dispatcher: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Numba's, for a call by compiled code: without one more version of a function for every constant it is given."""
    arguments = tuple(types.unliteral(one) for one in arguments)
    keywords = {name: types.unliteral(one) for name, one in keywords.items()}
    return type(dispatcher).get_call_template(dispatcher, arguments, keywords)


def sources() -> list[Path]:
    """The files that machine code is made of: constants and functions of others than the kernels' become part of it."""
    here = Path(__file__).parent
    return [*sorted(here.glob("*.py")), *sorted(here.parent.glob("*.py")), here.parents[1] / "moment.py"]


def compiled_before() -> bool:
    """Whether any function of this version has been compiled on this machine."""
    return any(Path(_FOLDER).rglob("*.nbi"))


def compilation_s() -> float:
    """Seconds that this process has spent on compiling, which it does in the midst of what needs a function first.

    To read from the cache what was compiled before is no part of that.
    """
    return float(_COMPILING.duration) if _COMPILING.done else 0.0


def _cache_folder() -> str:
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources())).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longlag" / version
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):
        # A machine without a writable home compiles in every process; that takes seconds, not results.
        temporary = tempfile.mkdtemp(prefix="longlag-kernels-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return temporary
    return str(folder)


_FOLDER = _cache_folder()

_COMPILING = event.TimingListener()
event.register("numba:compile", _COMPILING)
