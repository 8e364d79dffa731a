"""What the time of a worker is spent on."""

from __future__ import annotations

import time
from collections import defaultdict

from models.kernels.cpu.compiled import compilation_s


class Watch:
    """Seconds by what they are spent on; compilation, which the first of all stacks waits for, by itself."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._at, self._compiled_s = time.perf_counter(), compilation_s()

    def lap(self, name: str) -> None:
        """Book the time since the last lap."""
        at, compiled_s = time.perf_counter(), compilation_s()
        compiling = compiled_s - self._compiled_s
        self.seconds["compilation"] += compiling
        self.seconds[name] += at - self._at - compiling
        self._at, self._compiled_s = at, compiled_s
