"""Independent random streams from one study seed, each named by a path."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed that depends on the study seed and on every part of the path, and on nothing else.

    Streams with different paths are independent for all practical purposes (SHA-256 of the path), so that restarting,
    reordering or parallel work never changes what a stream draws.
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *path: str | int) -> torch.Generator:
    """A torch generator at the start of the stream that the path names."""
    return torch.Generator().manual_seed(derive(seed, *path))
