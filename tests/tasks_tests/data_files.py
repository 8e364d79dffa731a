"""Small files of the layouts that data sets are read from, for the tests of several rooms."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Generator

PITCHES = (21, 40, 60, 64, 108)

Rolls = dict[str, list[list[tuple[int, ...]]]]


def rolls() -> Rolls:
    """Pieces of 2 to 30 frames, some of them silent; one of a single frame, which holds no answer."""
    generator = Generator().manual_seed(5)

    def piece(length: int) -> list[tuple[int, ...]]:
        sounding = torch.rand((length, len(PITCHES)), generator=generator) < 0.4
        return [tuple(p for p, on in zip(PITCHES, frame, strict=True) if on) for frame in sounding.tolist()]

    lengths = {"train": (12, 30, 2, 1), "valid": (9, 5), "test": (7, 14)}
    return {split: [piece(length) for length in some] for split, some in lengths.items()}


def write_rolls(folder: Path) -> Path:
    path = folder / "rolls.pickle"
    # As Python 2 wrote the papers' files.
    path.write_bytes(pickle.dumps(rolls(), protocol=2))
    return path


def letters(n: int, *, lag: int, p_random: float = 0.1, n_letters: int = 3) -> str:
    """A text whose character follows, in the alphabet, the one ``lag`` steps ago, but for some at random."""
    generator = Generator().manual_seed(7)
    random = torch.randint(n_letters, (n,), generator=generator).tolist()
    surprise = (torch.rand(n, generator=generator) < p_random).tolist()
    codes: list[int] = []
    for t in range(n):
        codes.append(random[t] if t < lag or surprise[t] else (codes[t - lag] + 1) % n_letters)
    return "".join("abc"[code] for code in codes)


def write_letters(folder: Path, n: int = 4000, *, lag: int = 4) -> Path:
    path = folder / "letters.txt"
    path.write_text(letters(n, lag=lag), encoding="utf-8")
    return path
