"""What the kernels find on this machine, in words: a study is slower, but not different, without."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from llvmlite import binding

from models.kernels.cpu.compiled import compiled_before

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse2": "SSE2", "neon": "NEON"}
"""Vector instructions by LLVM's name of the feature, the widest first."""


def vectors() -> str:
    """The widest vector instructions of this processor."""
    features = binding.get_host_cpu_features()
    return next((name for feature, name in VECTORS.items() if features.get(feature)), "no known vectors")


def described(device: str) -> str:
    """What training on a device ("auto", "cpu" or "cuda") uses here, and what it would use if it were there."""
    if device != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return f"kernels for {name}" if find_spec("triton") else f"{name}, no kernels for it without triton"
    missing = [] if vectors() == "AVX-512" else ["AVX-512"]
    missing += [] if device == "cpu" else ["GPU"]
    once = "" if compiled_before() else "; they are compiled first: some seconds for each kind of network"
    return f"kernels for a processor with {vectors()}" + "".join(f", no {name}" for name in missing) + once
