"""Predicting the next frame of pieces of music or text at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.dataset import Dataset, Split
from tasks.draw import Draws
from tasks.task import Batch


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces of a part, end to end.

    ``frames`` is integer codes ``[N]``, or notes, one byte each, ``[N, n]``; ``first`` is where each piece begins and
    ``n_answers`` the number of its frames less one, both int64 ``[P]``: every frame but a piece's first is an answer.
    """

    frames: Tensor
    first: Tensor
    n_answers: Tensor

    def place(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Piece and history, in steps, of answers that are numbered piece by piece: each ``[B]``."""
        ends = self.n_answers.cumsum(0)
        piece = torch.searchsorted(ends, answers, right=True)
        return piece, answers - (ends - self.n_answers)[piece] + 1

    def at(self, where: Tensor) -> Tensor:
        """Frames at these places, as a network takes them: int64 codes, or float32 values."""
        frames = self.frames[where]
        return frames.long() if frames.ndim == where.ndim else frames.float()


def end_to_end(pieces: list[Tensor]) -> Pieces:
    """Pieces of frames ``[S]`` or ``[S, n]`` as one part; those without an answer, shorter than 2, are left out."""
    kept = [piece for piece in pieces if len(piece) > 1]
    lengths = torch.tensor([len(piece) for piece in kept])
    return Pieces(frames=torch.cat(kept), first=lengths.cumsum(0) - lengths, n_answers=lengths - 1)


class Prediction(Dataset):
    """Pieces of which every frame is predicted from the frames before it, but for the first of a piece.

    A sequence to train on is T frames that follow one another, and at each of them the next one is asked. Its piece is
    drawn with a probability proportional to its answers, then its first frame, evenly among those from which T + 1
    frames are left. A piece of T frames or fewer is taken whole: the rest of the sequence repeats its first frame, and
    is not asked. Held out, each answer is asked from the zero state with its own history before it.
    """

    shortest_length = 1
    _parts: Mapping[Split, Pieces]

    def sample(self, draws: Draws, length: int) -> Batch:
        """Frames ``[T, B]`` or ``[T, B, n]`` of the training part, and those that follow them."""
        self._require(length)
        part = self._parts["train"]
        piece, _ = part.place(draws.below(part.n_answers.sum()))
        n_answers = part.n_answers[piece]
        steps = torch.arange(length)[:, None]
        asked = steps < n_answers
        first = part.first[piece] + draws.below((n_answers - length).clamp(min=0) + 1)
        where = torch.where(asked, first + steps, first)
        targets = part.at(where + 1)
        unasked = torch.nan if targets.is_floating_point() else -1
        targets[~asked] = unasked
        return Batch(inputs=part.at(where), targets=targets)

    def histories(self, split: Split) -> Tensor:
        """The frames of its piece before each answer: ``[N]``."""
        part = self._parts[split]
        return part.place(torch.arange(int(part.n_answers.sum())))[1]

    def excerpt(self, split: Split, answers: Tensor, length: int) -> Batch:
        """The last frames before these answers, and the answers."""
        part = self._parts[split]
        piece, history = part.place(answers)
        asked = part.first[piece] + history
        return Batch(inputs=part.at(asked - length + torch.arange(length)[:, None]), targets=part.at(asked[None]))
