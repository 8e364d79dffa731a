"""Fair timing: two things in turn, in one run, compared by their medians."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from models.kernels.available import vectors

MIN_PAIRS, MAX_PAIRS = 3, 40
"""How often each of two things is timed at least, and at most."""


def paired(first: Callable[[], object], second: Callable[[], object], budget_s: float) -> tuple[float, float]:
    """Median seconds of each, timed in turn (A B A B) after one call of each that is not counted.

    Args:
        first: A.
        second: B.
        budget_s: seconds after which no further pair begins, once there are three.
    """
    first()
    second()
    times: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    while len(times[0]) < MIN_PAIRS or (time.perf_counter() - began < budget_s and len(times[0]) < MAX_PAIRS):
        for call, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def machine() -> str:
    """This machine in a line: processor, cores, vector instructions, versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    # Processors of several generations may bear one name.
    family = f" (family {told['cpu family']}, model {told['model']})" if "cpu family" in told else ""
    processor = told.get("model name", "unknown processor") + family
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{processor}, {cores} cores, {vectors()}; {gpu}; {versions}"
