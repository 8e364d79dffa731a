"""Compile every GPU kernel for a compute capability, with or without such a GPU, and print what each takes and reads.

A script of its own: Triton decides at its import whether kernels are compiled or interpreted.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.kernels.gpu import elman, fast_elman, gru, lstm, lstm_1997, min_gru, outer, philox, rule
from models.kernels.interface import RECTIFIER, TANH

KERNELS: dict[str, tuple[Any, dict[str, int]]] = {
    "elman": (elman, {"KIND": TANH, "MASKED": True, "LEAKY": False, "UNTIED": False}),
    "untied": (elman, {"KIND": TANH, "MASKED": True, "LEAKY": False, "UNTIED": True}),
    "leaky": (elman, {"KIND": TANH, "MASKED": True, "LEAKY": True, "UNTIED": False}),
    "lstm": (lstm, {"MASKED": True}),
    "lstm_1997": (lstm_1997, {"MASKED": True, "SEVERED": False}),
    "lstm_1997_truncated": (lstm_1997, {"MASKED": True, "SEVERED": True}),
    "gru": (gru, {"MASKED": True}),
    "min_gru": (min_gru, {}),
    "fast_elman": (fast_elman, {"KIND": RECTIFIER}),
}
PASSES: dict[str, tuple[str, dict[str, int]]] = {
    "forward": ("forward", {}),
    "backward": ("backward", {"TRUNCATED": False}),
    "truncated": ("backward", {"TRUNCATED": True}),
}
SIZES = (("fp32", 50), ("fp32", 64), ("fp32", 100), ("fp64", 100))
"""Precisions and units."""

N_BATCH = 20
"""Rows of the batch."""

INTEGERS = ("n_matrices", "n_steps", "n_kept", "n_batch", "n_read", "code_stride", "n_choices", "n_places", "first")
PLACES = ("low", "high", "call", "n")
TYPES = {
    **dict.fromkeys((*INTEGERS, *PLACES, "n_parameters"), "i32"),
    **dict.fromkeys(("window", "codes", "keys"), "*i64"),
}
TYPES |= {
    "roles": "*i8",
    **dict.fromkeys(("coefficients", "norm", "n_updates"), "*fp64"),
}


def resting(code: str) -> set[str]:
    """Arguments of which the loop over steps reads a place that is the same at each, in Triton's intermediate code."""
    moving: set[str] = set()
    of: dict[str, set[str]] = {}
    found: set[str] = set()
    within = False
    for line in code.splitlines():
        text = line.partition(" loc(")[0]
        if text.startswith("  tt.func"):
            of = {name: {name[1:]} for name in re.findall(r"(%\w+): !tt.ptr", line)}
        elif text.startswith("    }"):
            within = False
        elif loop := re.search(r"scf.for (%\w+)", text):
            carried = re.findall(r"(%\w+) = (%\w+)", text.partition("iter_args")[2])
            if re.match(r"    \S", text):
                within, moving = True, {loop[1], *(name for name, _ in carried)}
            for name, first in carried:
                of[name] = of.get(first, set())
                moving |= {name} if first in moving else set()
        elif made := re.match(r"\s*(%\w+) = ([\w.]+) (.*)", text):
            name, operation, operands = made[1], made[2], re.findall(r"%\w+", made[3])
            loaded = operation == "tt.load"
            if loaded and within and operands[0] not in moving:
                found |= of[operands[0]]
            moving |= {name} if moving.intersection(operands) else set()
            of[name] = set() if loaded else {base for one in operands for base in of.get(one, set())}
    return found


def resources(kernel: Any, sizes: dict[str, Any], number: str, capability: int) -> dict[str, Any]:
    constants = {name: value for name, value in sizes.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else TYPES.get(name, f"*{number}") for name in kernel.arg_names}
    aligned = {(n,): [["tt.divisibility", 16]] for n, kind in enumerate(signature.values()) if kind == f"*{number}"}
    source = ASTSource(kernel, signature, constants, aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": sizes["num_warps"]})
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
        "resting": sorted(resting(binary.asm["ttir"])),
    }


def cases() -> Iterator[tuple[str, Any, dict[str, Any], str]]:
    """A name, the kernel, its constants and number of warps, and its precision."""
    for number, n_hidden in SIZES:
        for name, (module, options) in KERNELS.items():
            for way, (which, more) in PASSES.items():
                tied = module.FORWARD if which == "forward" else module.BACKWARD
                parting = elman.UNTIED if name == "untied" else tied
                sizes = parting.sizes(n_hidden, N_BATCH, 4 if number == "fp32" else 8)
                # Drives that symbols select, and at 64 units drives of values.
                sizes |= {"GATHERED": n_hidden != 64}
                yield f"{name} {way} {number} {n_hidden}", getattr(module, which), {**sizes, **options, **more}, number
        for selected in (False, True):
            sizes = {**outer.sizes(n_hidden, n_hidden), "SIGNALS": n_hidden, "num_warps": outer.N_WARPS}
            sizes |= {"MASKED": not selected, "SELECTED": selected}
            yield f"outer {selected} {number} {n_hidden}", outer.outer, sizes, number
    yield "rule", rule.update, {"EPSILON": 1e-8, "BLOCK": rule.BLOCK, "num_warps": 4}, "fp32"
    yield "philox", philox.fill, {"BLOCK": philox.BLOCK, "num_warps": 4}, "fp32"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    compiled = {name: resources(*case, int(sys.argv[1])) for name, *case in cases()}
    sys.stdout.write(json.dumps(compiled))
