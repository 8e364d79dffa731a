"""Where the forward passes read and write: steps come from the drive, and a tape may keep the last of them only."""

from __future__ import annotations

from models.kernels.cpu.compiled import compiled


@compiled
def count_steps(drive, codes, n_batch):
    """Steps T of a drive ``[K, N, G*H]`` with codes ``[K, T, B]`` or ``[1, T, B]``, or of one in order, N = T B."""
    return codes.shape[1] if codes.size > 0 else drive.shape[1] // n_batch


@compiled
def slot(k, t, n_kept):
    """Where step t of member k lies in a tape ``[K, S, ...]``: steps take its S places in turn."""
    return k * n_kept + t % n_kept


@compiled
def drive_row(codes, k, t, row, n_batch):
    """Which row of the drive member k's sequence ``row`` meets at step t; codes as in ``count_steps``."""
    if codes.size > 0:
        return codes[k if codes.shape[0] > 1 else 0, t, row]
    return t * n_batch + row
