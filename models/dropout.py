"""Dropout: its kinds, the rates of a stack's members, the numbers that masks are made from, and the masks."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor


class Dropout(StrEnum):
    """How noise is put on inputs, recurrent connections and outputs during training."""

    NONE = "none"
    DROPOUT = "dropout"
    FAST = "fast"


MASKS = ("step", "sequence")
"""How long a drawn mask holds."""


@dataclass(frozen=True, kw_only=True)
class _Members:
    """Tensors with a leading member axis, or None."""

    def of(self, members: slice | Tensor) -> Self:
        """The same for some of the members only."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if part is None else part[members] for name, part in parts.items()})


@dataclass(frozen=True, kw_only=True)
class Keep(_Members):
    """Probability of keeping a unit of each weight group, per member, each ``[K]`` in (0, 1].

    ``outputs`` is that of a state on its way into the readout, None where every member keeps all. ``held``, bool
    ``[K]``, says which members keep one mask for a whole sequence instead of drawing one at every step, None where none
    does; fast dropout does not read it.
    """

    inputs: Tensor
    recurrent: Tensor
    outputs: Tensor | None = None
    held: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Noise(_Members):
    """Uniform numbers in [0, 1) from which each member thresholds its own dropout masks.

    ``inputs`` is ``[T, B, 1]`` for symbol codes (a whole symbol is dropped) or ``[T, B, n_in]``; ``recurrent`` is
    ``[T, B, H]``; ``outputs``, ``[R, B, H]``, is None where no member drops outputs; ``symbols``, ``[B, n_in]``, is
    what members read for symbol codes whose masks are held. Where members draw their own batches, all carry a leading
    member axis.
    """

    inputs: Tensor
    recurrent: Tensor
    outputs: Tensor | None = None
    symbols: Tensor | None = None

    def input_mask(self, keep: Keep) -> Tensor:
        """What input values are multiplied by, ``[K, T or 1, B, n_in]``."""
        return _mask(self.inputs, keep.inputs, keep.held)

    def recurrent_mask(self, keep: Keep) -> Tensor:
        """What states are multiplied by on their way into the recurrent product, ``[K, T, B, H]``."""
        return _mask(self.recurrent, keep.recurrent, keep.held)

    def output_mask(self, keep: Keep) -> Tensor | None:
        """What states are multiplied by on their way into the readout, ``[K, R, B, H]``; None where all are kept."""
        if keep.outputs is None or self.outputs is None:
            return None
        return _mask(self.outputs, keep.outputs, keep.held)

    def symbol_kept(self, codes: Tensor, keep: Keep) -> Tensor:
        """Whether the symbol at each place is kept, bool ``[K, T, B]``.

        Where masks are held they are of symbols, not of steps: a symbol that is dropped once is dropped wherever it
        stands in the sequence.

        Source: Gal & Ghahramani 2016, section 4.2 (word embeddings). Differs: nothing.
        """
        uniform = self.inputs.squeeze(-1)
        if keep.held is not None and self.symbols is not None:
            of_symbols = self.symbols.gather(-1, codes.mT).mT
            uniform = torch.where(keep.held[:, None, None], of_symbols, uniform)
        return uniform < keep.inputs[:, None, None]


def _mask(uniform: Tensor, p_keep: Tensor, held: Tensor | None) -> Tensor:
    """Inverted dropout mask ``[K, T, B, F]``: 1 / p_keep with probability p_keep, else 0.

    Members that hold their masks take the first step's for all steps.

    Source: Srivastava et al. 2014; Gal & Ghahramani 2016, section 4, for masks that are held; gated cells have one mask
    for all gates, their tied weights. Differs: nothing.
    """
    p = p_keep[:, None, None, None].to(uniform.dtype)
    if held is not None:
        uniform = torch.where(held[:, None, None, None], uniform[..., :1, :, :], uniform)
    # Straight into the mask: by way of booleans it takes five times as long.
    kept = uniform.new_empty(len(p), *uniform.shape[-3:])
    return torch.lt(uniform, p, out=kept).div_(p)
