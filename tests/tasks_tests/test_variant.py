"""Parameters of variants, as a constructor declares them."""

from __future__ import annotations

from typing import Literal

import pytest

from tasks import TASKS
from tasks.parity import Parity
from tasks.variant import VariantParameter, variant_parameters


class Varied(Parity):
    def __init__(
        self, *, path: str, name: str | None = None, form: Literal["short", "long"] = "long", n: int = 3
    ) -> None: ...


class Unresolved(Parity):
    def __init__(self, *, n: int = 2, **more: int) -> None: ...


def test_variant_parameters_have_their_values_and_defaults() -> None:
    assert variant_parameters(Varied) == {
        "path": VariantParameter(values=(), type=str, required=True),
        "name": VariantParameter(values=(), type=None, required=False),
        "form": VariantParameter(values=("short", "long"), type=None, required=False, default="long"),
        "n": VariantParameter(values=(), type=int, required=False, default=3),
    }


@pytest.mark.parametrize("annotation", ["NotImported", "torch.not_there", "'a' | None", "1 +", "1 / 0"])
def test_values_stay_unknown_where_an_annotation_is_no_type(monkeypatch: pytest.MonkeyPatch, annotation: str) -> None:
    monkeypatch.setitem(Unresolved.__init__.__annotations__, "n", annotation)
    assert variant_parameters(Unresolved) == {"n": VariantParameter(values=(), type=None, required=False, default=2)}


def test_a_task_without_a_constructor_has_no_parameters() -> None:
    assert variant_parameters(Parity) == {}


def test_defaults_are_among_the_values() -> None:
    found = [one for kind in TASKS.values() for one in variant_parameters(kind).values() if one.values]
    assert found
    assert all(one.default in one.values for one in found)
