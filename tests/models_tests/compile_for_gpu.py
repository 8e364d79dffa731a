"""Compile every GPU kernel for a compute capability, with or without such a GPU, and print what resources each takes.

A script of its own: Triton decides at its import whether kernels are compiled or interpreted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.kernels.gpu import elman, fast_elman, gru, lstm, lstm_1997, min_gru
from models.kernels.gpu.launch import N_WARPS, SMALL, WIDE, tiles
from models.kernels.interface import RECTIFIER, TANH

KERNELS: dict[str, tuple[Any, int, dict[str, int]]] = {
    "elman": (elman, WIDE, {"KIND": TANH, "MASKED": True, "LEAKY": False, "UNTIED": False}),
    "untied": (elman, WIDE, {"KIND": TANH, "MASKED": True, "LEAKY": False, "UNTIED": True}),
    "leaky": (elman, WIDE, {"KIND": TANH, "MASKED": True, "LEAKY": True, "UNTIED": False}),
    "lstm": (lstm, SMALL, {"MASKED": True}),
    "lstm_1997": (lstm_1997, SMALL, {"MASKED": True, "SEVERED": False}),
    "lstm_1997_truncated": (lstm_1997, SMALL, {"MASKED": True, "SEVERED": True}),
    "gru": (gru, SMALL, {"MASKED": True}),
    "min_gru": (min_gru, WIDE, {}),
    "fast_elman": (fast_elman, SMALL, {"KIND": RECTIFIER}),
}
PASSES: dict[str, tuple[str, dict[str, int]]] = {
    "forward": ("forward", {}),
    "backward": ("backward", {"TRUNCATED": False}),
    "truncated": ("backward", {"TRUNCATED": True}),
}
UNITS = (50, 64, 100)
TYPES = {**dict.fromkeys(("n_matrices", "n_steps", "n_batch", "n_read"), "i32"), "window": "*i64"}


def resources(kernel: Any, constants: dict[str, int], capability: int) -> dict[str, int]:
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else TYPES.get(name, "*fp32") for name in kernel.arg_names}
    aligned = {(n,): [["tt.divisibility", 16]] for n, kind in enumerate(signature.values()) if kind == "*fp32"}
    source = ASTSource(kernel, signature, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": N_WARPS})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        dump = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([dump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text.stdout)}
    return {
        "registers": found["REG"],
        "spilled_bytes": found["STACK"] + found["LOCAL"],
        "shared_bytes": binary.metadata.shared,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    compiled = {
        f"{name} {way} {n_hidden}": resources(
            getattr(module, which), {**tiles(n_hidden, widest), **options, **more}, int(sys.argv[1])
        )
        for name, (module, widest, options) in KERNELS.items()
        for way, (which, more) in PASSES.items()
        for n_hidden in UNITS
    }
    sys.stdout.write(json.dumps(compiled))
