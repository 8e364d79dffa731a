"""Text: the next character, at every step."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.dataset import SPLITS, file_path, read_file
from tasks.likelihood import CLASSES
from tasks.prediction import Prediction, end_to_end

ENDS = (0.9, 0.95, 1.0)
"""Where the parts of a text in one file end, in the order of ``SPLITS``."""


class Text(Prediction):
    """A character model: at every step the next character of a text is predicted, one class for each character.

    ``path`` names one file, whose first 90 % train, the next 5 % choose and the last 5 % test; or three, where a ``*``
    in it stands for train, valid and test, as in the Penn Treebank's ``ptb.*.txt``. The text is UTF-8 and taken as
    it is, line ends included. Its alphabet is that of the training part, by code point; a character that the training
    part lacks counts as one more, the last, in input and answer. Losses are in nats; in bits per character they are
    divided by ln 2.

    Source: Mikolov et al. 2012, subword language modelling, for the Penn Treebank's characters, as used by Pascanu et
    al. 2013. Differs: sequences are drawn anywhere and start from the zero state, where those papers go through the
    text in order and carry the state over; the one more character.
    """

    name = "text"
    source = "character model of a local file, as Mikolov et al. 2012 and Pascanu et al. 2013"
    symbolic = True
    likelihood = CLASSES

    def __init__(self, *, path: str) -> None:
        """The task on the text at this absolute path."""
        self._path = file_path(path)

    def files(self) -> list[str]:
        """One file, or one for each part."""
        return [self._path.replace("*", split) for split in SPLITS] if "*" in self._path else [self._path]

    def load(self) -> None:
        """Read the text; raises ValueError if it is not there, not UTF-8, or too short to be parted."""
        texts = [_read(path) for path in self.files()]
        if len(texts) == 1:
            (whole,) = texts
            ends = [round(end * len(whole)) for end in ENDS]
            texts = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if any(len(text) < 2 for text in texts):
            sizes = ", ".join(f"{len(text)} in {split}" for split, text in zip(SPLITS, texts, strict=True))
            raise ValueError(f"each part of the text must have 2 characters or more, but {self._path} has {sizes}")
        alphabet = torch.unique(texts[0])
        self.n_in = self.n_out = len(alphabet) + 1
        self._parts = {split: end_to_end([_encoded(text, alphabet)]) for split, text in zip(SPLITS, texts, strict=True)}

    def constant(self) -> Tensor:
        """Logarithms of the characters' counts in training, each one more than counted: ``[n_out]``."""
        return (self._parts["train"].frames.bincount(minlength=self.n_out) + 1).log()


def _read(path: str) -> Tensor:
    """Code points of a text: int32 ``[N]``."""
    try:
        text = read_file("text", path).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"text must be UTF-8, but {path} is not") from None
    points = bytearray(text.encode("utf-32-le"))
    return torch.frombuffer(points, dtype=torch.int32) if points else torch.empty(0, dtype=torch.int32)


def _encoded(text: Tensor, alphabet: Tensor) -> Tensor:
    """Places of characters in an alphabet, and its length for those that are not in it."""
    codes = torch.searchsorted(alphabet, text, out_int32=True)
    known = alphabet[codes.clamp(max=len(alphabet) - 1)] == text
    return torch.where(known, codes, len(alphabet))
