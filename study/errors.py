"""The two kinds of error a user meets, each one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LonglagError(Exception):
    """Something outside the user's hands went wrong; exit code 1."""

    exit_code = 1


class UserError(LonglagError):
    """What the user asked for cannot be done as asked; exit code 2."""

    exit_code = 2


class StoppedError(LonglagError):
    """A run was ended early because it was asked to; exit code as shells have it for Ctrl-C."""

    exit_code = 130


def must(holds: bool, rule: str, value: str) -> None:
    """Raise ValueError with the rule, then the value, unless the rule holds."""
    if not holds:
        raise ValueError(f"{rule}, but {value}")


def shown(value: object) -> str:
    """A value of a study file as its user sees it: after a key without one there is nothing."""
    return "nothing" if value is None else repr(value)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """A sentence about a name that nothing bears, with the nearest one that something does."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}; {hint}"
