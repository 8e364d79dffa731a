"""What a process that trains asks of the machine, once, before its first stack."""

from __future__ import annotations

import ctypes

import torch

_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
"""Numbers of glibc's allocator options, from malloc.h."""


def prepare_process() -> None:
    """One thread, no denormal numbers, and memory that is kept between updates.

    Stacks are small: a worker per core beats threads that share one. Vanishing error signals end as denormal numbers,
    on which a core computes about a hundred times slower. And glibc gives every large tensor back to the system when it
    is freed, which then clears each page anew at the next update: half of the time of an LSTM's update.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20)):
            mallopt(option, value)
