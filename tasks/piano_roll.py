"""Polyphonic piano rolls: which notes sound next, at every step."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

import torch
from torch import Tensor

from tasks.dataset import SPLITS, Split, file_path, read_file
from tasks.likelihood import NOTES
from tasks.prediction import Pieces, Prediction, end_to_end

LOWEST, HIGHEST = 21, 108
"""MIDI numbers of a piano's first and last key."""

LAYOUT = "a pickled dictionary of train, valid and test, each a list of pieces, each a list of frames of MIDI numbers"

ALLOWED = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}
"""All that a piano roll's pickle may name: how numpy's numbers and arrays are put together."""


class PianoRolls(Prediction):
    """Pieces of music as lists of frames; at each frame the notes of the next one, every key on its own.

    ``path`` names a file of the layout of Boulanger-Lewandowski's ``JSB_Chorales.pickle``, ``Nottingham.pickle``,
    ``MuseData.pickle`` and ``Piano-midi.de.pickle``. Frames are 88 numbers, 0 or 1, for the keys 21 to 108; the loss is
    summed over keys, in nats per frame. Pickles run what they name: here nothing is let in but lists, tuples,
    dictionaries, numbers, text and numpy's arrays.

    Source: Boulanger-Lewandowski, Bengio & Vincent 2012, the RNN rows; pieces for training as in Bayer et al. 2013,
    who cuts them to 100 frames, of which 99 are predicted: T = 99 here. Differs: pieces are cut anywhere, where Bayer's
    code cuts from the first frame on; held-out pieces are whole up to the ladder's last length; a piece's first frame
    is not predicted, as in Bayer's code.
    """

    name = "piano_rolls"
    source = "Boulanger-Lewandowski, Bengio & Vincent 2012, polyphonic music in a local file"
    symbolic = False
    likelihood = NOTES
    n_in = n_out = HIGHEST - LOWEST + 1

    def __init__(self, *, path: str) -> None:
        """The task on the pieces at this absolute path."""
        self._path = file_path(path)

    def files(self) -> list[str]:
        """The one file."""
        return [self._path]

    def load(self) -> None:
        """Read the pieces; raises ValueError if they are not there, or not of the layout."""
        parts = _unpickled(read_file("piano rolls", self._path), self._path)
        if not isinstance(parts, Mapping) or not set(SPLITS) <= set(parts):
            raise ValueError(f"piano rolls must be {LAYOUT}, but {self._path} has not the three parts")
        self._parts = {split: self._part(split, parts[split]) for split in SPLITS}

    def constant(self) -> Tensor:
        """Logarithms of each key's odds in training, half a frame added to either side: ``[88]``."""
        frames = self._parts["train"].frames
        sounding = frames.sum(0) + 0.5
        return (sounding / (len(frames) + 1 - sounding)).log()

    def _part(self, split: Split, pieces: object) -> Pieces:
        try:
            rolls = [_roll(piece) for piece in _list(pieces)]
        except (TypeError, ValueError) as error:
            raise ValueError(f"piano rolls must be {LAYOUT}, but in {split} of {self._path} {error}") from None
        if all(len(roll) < 2 for roll in rolls):
            raise ValueError(f"{split} of {self._path} must have a piece of 2 frames or more, but it has none")
        return end_to_end(rolls)


def _roll(piece: object) -> Tensor:
    """Frames of a piece, one byte a key: ``[S, 88]``."""
    # Of numbers, index takes whole ones only.
    frames = [[index(note) for note in _list(frame)] for frame in _list(piece)]
    for note in (note for frame in frames for note in frame):
        if not LOWEST <= note <= HIGHEST:
            raise ValueError(f"a note is {note}, which is no piano key from {LOWEST} to {HIGHEST}")
    roll = torch.zeros((len(frames), HIGHEST - LOWEST + 1), dtype=torch.uint8)
    where = [(step, note - LOWEST) for step, frame in enumerate(frames) for note in frame]
    if where:
        roll[tuple(torch.tensor(where).T)] = 1
    return roll


def _list(value: object) -> list[Any]:
    """What a list, a tuple or an array holds."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{value!r:.40} stands for a list")
    return list(value)


class _Unpickler(pickle.Unpickler):
    """Builds plain data and numpy's arrays only."""

    def find_class(self, module: str, name: str) -> object:
        # numpy.core is what the module was called when the papers' files were written.
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def _unpickled(data: bytes, path: str) -> object:
    try:
        # The papers' files were written by Python 2.
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except (
        *(pickle.UnpicklingError, EOFError, ImportError, MemoryError),
        *(AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"piano rolls must be {LAYOUT}, but {path} cannot be read as one: {error}") from None
