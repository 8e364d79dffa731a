"""What the members' hyperparameters change in losses and gradients; None where they change nothing for anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.dropout import Dropout, Keep
from study.plan import Member
from study.training.omega import Charges, charges


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Values by member, on the stack's device; what is None costs nothing.

    ``keep`` are the rates of dropout, ``averaged`` ``[K, 1, 1, 1]`` is 1 for members that are trained by the loss on
    average over fast dropout's noise, ``l1_states`` ``[K]`` is the factor of the states' absolute values, ``window``,
    int64 ``[K]``, are the steps of the windows in which errors flow back, and ``owed`` is what is paid for Omega.
    """

    keep: Keep | None
    averaged: Tensor | None
    l1_states: Tensor | None
    window: Tensor | None
    owed: Charges | None

    def of(self, members: slice) -> Terms:
        """The same for some of the members."""
        return Terms(
            keep=self.keep and self.keep.of(members),
            averaged=None if self.averaged is None else self.averaged[members],
            l1_states=None if self.l1_states is None else self.l1_states[members],
            window=None if self.window is None else self.window[members],
            owed=self.owed and self.owed.of(members),
        )


def terms(members: Sequence[Member], dropout: Dropout, longest: int, like: Tensor) -> Terms:
    """The terms of these members.

    Args:
        members: they share the dropout kind.
        dropout: that kind.
        longest: the longest sequence that they are trained on, in steps.
        like: has the device and the precision.
    """
    every = [member.hyperparameters for member in members]
    averaged = [dropout is Dropout.FAST and one.fast_readout == "moments" for one in every]
    sparse, truncated = any(one.l1_states > 0 for one in every), any(one.bptt_steps < math.inf for one in every)
    # Infinity is no integer; no error flows back further than the longest sequence.
    steps = [int(min(one.bptt_steps, longest)) for one in every]
    return Terms(
        keep=None if dropout is Dropout.NONE else _rates(members, like),
        averaged=like.new_tensor(averaged)[:, None, None, None] if any(averaged) else None,
        l1_states=like.new_tensor([one.l1_states for one in every]) if sparse else None,
        window=torch.tensor(steps, device=like.device) if truncated else None,
        owed=charges(every, like),
    )


def _rates(members: Sequence[Member], like: Tensor) -> Keep:
    """How likely each member keeps a unit of each weight group, in the precision and on the device of ``like``."""
    every = [member.hyperparameters for member in members]
    held = [one.dropout_masks == "sequence" for one in every]
    # What nobody asks for costs nothing.
    dropping = any(one.p_drop_output > 0 for one in every)
    return Keep(
        inputs=like.new_tensor([1 - one.p_drop_input for one in every]),
        recurrent=like.new_tensor([1 - one.p_drop_recurrent for one in every]),
        outputs=like.new_tensor([1 - one.p_drop_output for one in every]) if dropping else None,
        held=torch.tensor(held, device=like.device) if any(held) else None,
    )
