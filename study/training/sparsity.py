"""Sparsely connected members: the recurrent connections that they lack, and that training must leave at zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from models.initial import connections
from study.plan import Member
from study.seeds import stream


def lacking(member: Member, n_hidden: int) -> Tensor:
    """The recurrent connections that a member does not have, ``[H, H]``, bool; its seed tells which."""
    present = connections(stream(member.seed, "connections"), n_hidden, member.hyperparameters.connectivity)
    return ~present


def all_lacking(members: Sequence[Member], n_hidden: int, device: torch.device) -> Tensor | None:
    """Those of a whole stack, ``[K, H * H]``; None where every member has all connections."""
    if all(member.hyperparameters.connectivity == 1 for member in members):
        return None
    return torch.stack([lacking(member, n_hidden).flatten() for member in members]).to(device)
