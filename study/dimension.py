"""What a hyperparameter is: which values make sense, where it is searched, when it applies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from study.errors import must, unknown_name
from study.plan import Choices, Domain, Interval, Parameter

Chosen = Mapping[str, Parameter]
"""The hyperparameters of a trial that are decided so far."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """A dimension of the search.

    ``names`` are the valid values of a categorical hyperparameter; a numeric one must lie between ``low`` and ``high``,
    bounds excluded where ``open_low`` or ``open_high`` says so, and be whole, or infinite, where ``whole`` does.
    ``applies`` tells, from the cell and what is chosen so
    far, whether the hyperparameter has any effect.
    """

    meaning: str
    default: Domain
    names: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    applies: Callable[[str, Chosen], bool] = lambda cell, chosen: True

    @property
    def values_text(self) -> str:
        """The values that make sense, in words."""
        if self.names:
            return ", ".join(self.names)
        over, under = "over " * self.open_low, "under " * self.open_high
        return f"{over}{self.low:g} to {under}{self.high:g}"

    def accepts(self, value: Parameter) -> bool:
        """Whether the value makes sense for this hyperparameter."""
        if self.names:
            return value in self.names
        if isinstance(value, str | bool) or math.isnan(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (not self.whole or math.isinf(value) or value == int(value))

    def check(self, where: str, domain: Domain) -> None:
        """Raise ValueError, with ``where`` in its sentence, unless every value of the domain makes sense."""
        values = bounds_or_values(domain)
        if isinstance(domain, Interval):
            low, high = domain.low, domain.high
            must(not self.names, f"{where} must be {self.rule}", "got an interval")
            must(math.isfinite(high - low), f"{where}: an interval must be finite", f"got {low:g} to {high:g}")
            must(low < high, f"{where}: low < high must hold", f"got {low:g} and {high:g}")
            must(not domain.log or low > 0, f"{where}: low > 0 must hold with log", f"got {low:g}")
        elif isinstance(domain, Choices):
            must(len(set(values)) == len(values), f"{where}: choices must differ", f"got {', '.join(map(str, values))}")
        for value in values:
            if self.names and value not in self.names:
                raise ValueError(f"{where}: {unknown_name('value', str(value), self.names)}")
            must(self.accepts(value), f"{where} must be {self.rule}", f"got {value}")

    @property
    def rule(self) -> str:
        """What ``accepts`` demands, in words."""
        if self.names:
            return f"one of {', '.join(self.names)}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"a {'whole ' * self.whole}number in {left}{self.low:g}, {self.high:g}{right}"


def bounds_or_values(domain: Domain) -> tuple[Parameter, ...]:
    """Where an interval starts and ends; or all values of any other domain."""
    if isinstance(domain, Interval):
        return domain.low, domain.high
    return domain.values if isinstance(domain, Choices) else (domain,)
