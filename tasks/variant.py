"""The parameters by which a problem's variants differ, read off its constructor."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tasks.task import Problem


@dataclass(frozen=True, kw_only=True)
class VariantParameter:
    """A parameter: its values where they are a closed set, else its type; and its default, if it need not be given."""

    values: tuple[str | int, ...]
    type: type | None
    required: bool
    default: str | int | None = None


def variant_parameters(problem: type[Problem]) -> dict[str, VariantParameter]:
    """The parameters of a problem by name, in the constructor's order."""
    hints: dict[str, Any] = {}
    # Another's package may annotate with what it imports for type checkers only, or what is no type at all.
    with suppress(Exception):
        hints = get_type_hints(problem.__init__)
    return {
        name: VariantParameter(
            values=get_args(hints[name]) if get_origin(hints.get(name)) is Literal else (),
            type=hints[name] if isinstance(hints.get(name), type) else None,
            required=one.default is one.empty,
            default=None if one.default is one.empty else one.default,
        )
        for name, one in signature(problem).parameters.items()
        if one.kind is one.KEYWORD_ONLY or one.kind is one.POSITIONAL_OR_KEYWORD
    }
