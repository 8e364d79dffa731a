"""Truncated backpropagation through time: where error signals end on their way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far error signals go back: which steps they reach, and where they end.

    ``first`` is the first step that any member's errors reach; ``ends`` ``[K, T, 1, 1]``, bool, says at which steps a
    member's windows end, None without truncation.
    """

    first: int
    ends: Tensor | None

    def sever(self, t: int, arriving: Tensor) -> Tensor:
        """What comes back to step t from the step after it, ``[K, B, H]``, without the errors that end there."""
        return arriving if self.ends is None else arriving.masked_fill(self.ends[:, t], 0)


def reach(window: Tensor | None, n_steps: int, n_read: int) -> Reach:
    """Where error signals end that flow back within windows of ``window`` steps.

    The T steps are cut into windows of h steps, counted from the last step back, so that only the earliest may be
    shorter. The state is carried from window to window, and an error stays in the window in which it arises:
    ``dE/dh_{t+1} dh_{t+1}/dh_t = 0`` where step t is a window's last. An error at the last step reaches h steps, that
    step included; one at the first step of a window reaches only that one. Windows of T steps or more cut nothing.

    Args:
        window: h of every member, int64 ``[K]``, at least 1; None where nobody's errors end.
        n_steps: T.
        n_read: number R of final steps at which errors arise.

    Source: Williams & Peng 1990, truncated backpropagation through time BPTT(h; h') with h' = h. Differs: the windows
    of a sequence together make one gradient, and are counted from its end, where answers are read, not from its start.
    """
    if window is None:
        return Reach(first=0, ends=None)
    steps_left = torch.arange(n_steps - 1, -1, -1, device=window.device)
    ends = steps_left % window[:, None] == 0
    n_reached = int(((n_read - 1) // window + 1).mul_(window).max())
    return Reach(first=max(0, n_steps - n_reached), ends=ends[:, :, None, None])
