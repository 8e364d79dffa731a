"""What a machine lacks is said, and does without."""

from __future__ import annotations

import sys

import pytest
import torch

from models import fused_cell
from models.kernels import available


@pytest.mark.parametrize(
    ("features", "device", "text"),
    [
        ({"avx512f": True, "avx2": True}, "cpu", "kernels for a processor with AVX-512"),
        ({"avx512f": True, "avx2": True}, "auto", "kernels for a processor with AVX-512, no GPU"),
        ({"avx512f": False, "avx2": True}, "auto", "kernels for a processor with AVX2, no AVX-512, no GPU"),
        ({"neon": True}, "cpu", "kernels for a processor with NEON, no AVX-512"),
    ],
)
def test_described_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], device: str, text: str
) -> None:
    monkeypatch.setattr(available.binding, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available.described(device) == text


def test_a_gpu_without_triton_is_warned_of_once_and_uses_the_plain_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models.kernels.gpu", None)
    fused_cell._gpu_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="need triton"):
            assert fused_cell.kernels_for(torch.device("cuda")) is None
        # Warnings are errors here: a second one would raise.
        assert fused_cell.kernels_for(torch.device("cuda")) is None
    finally:
        fused_cell._gpu_kernels.cache_clear()
