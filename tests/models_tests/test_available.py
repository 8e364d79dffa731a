"""What a machine lacks is said, and does without."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from numba import njit

from models import CELLS, fusion
from models.drive import Drive
from models.fused import fuse
from models.kernels import available
from models.kernels.cpu import compiled


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
    monkeypatch.setattr(available, "compiled_before", lambda: True)
    assert available.described(device) == text


def test_described_says_that_kernels_are_compiled_where_none_has_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compiled, "_FOLDER", str(tmp_path))
    assert "compiled first" in available.described("cpu")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "elman.forward.nbi").touch()
    assert "compiled" not in available.described("cpu")


def test_seconds_of_compiling_grow_with_what_is_compiled() -> None:
    function, before = njit(lambda x: x + 1), compiled.compilation_s()
    function(1)
    after = compiled.compilation_s()
    function(2)
    assert before < after == compiled.compilation_s()
    function(1.0)
    assert after < compiled.compilation_s()


def test_a_function_is_compiled_once_for_constants_and_numbers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiled, "_FOLDER", str(tmp_path))
    calls = njit(lambda x, square: square(x) + square(2) + square(3))
    square = compiled.compiled(_square)
    assert calls(1, square) == 14
    assert [str(one) for (one,) in square.signatures] == ["int64"]


def _square(x: int) -> int:
    return x * x


@pytest.mark.parametrize(
    ("installed", "text"), [(True, "kernels for a GPU"), (False, "a GPU, no kernels for it without triton")]
)
def test_described_names_a_gpu_and_whether_there_are_kernels_for_it(
    monkeypatch: pytest.MonkeyPatch, installed: bool, text: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(available, "find_spec", lambda name: name if installed else None)
    assert available.described("auto") == text


def test_a_gpu_without_triton_is_warned_of_once_and_uses_the_plain_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "models.kernels.gpu", None)
    fusion._gpu_kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match="need triton"):
            assert fusion.kernels_for(torch.device("cuda")) is None
        # Warnings are errors here: a second one would raise.
        assert fusion.kernels_for(torch.device("cuda")) is None
    finally:
        fusion._gpu_kernels.cache_clear()


@pytest.mark.parametrize("name", ["elman_tanh", "lstm", "min_gru"])
def test_a_device_without_kernels_runs_the_plain_passes(name: str) -> None:
    cell = fuse(CELLS[name])
    # Tensors without memory, on a device that is neither a processor nor a GPU.
    weights = {key: torch.empty(2, *shape, device="meta") for key, shape in cell.shapes(5).items()}
    tape = cell.forward(weights, Drive(parts=(torch.empty(2, 3, 4, 5 * cell.n_gates, device="meta"),)), None)
    flow = cell.backward(weights, tape, None, tape.states[:, -1:])
    assert (tape.states.shape, flow.net.shape) == ((2, 3, 4, 5), (2, 3, 4, 5 * cell.n_gates))
