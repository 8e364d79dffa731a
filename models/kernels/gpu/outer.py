"""Sums of outer products over the steps and sequences of a member: the gradients by what its weights multiply."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.kernels.gpu.launch import or_any
from models.kernels.gpu.tile import dot, load, store

TILE = 64
"""Most rows, and most columns, of a sum that one program works on."""

PLACES = 32
"""Places, each a step of a sequence, whose products a program adds up at a time."""

STAGES = 3
"""Chunks of places that are on their way to a program at a time."""

N_WARPS = 4

PARTS = 4
"""Programs that share the places of one tile; as many for every stack, so that these sums do not hang on its size."""


def multiply(states: Tensor, mask: Tensor | None, signals: Tensor, total: Tensor) -> None:
    """``sum_t (m_t h_{t-1})^T delta_t`` into ``total`` ``[K, H, F]``, see ``models.elman.recurrent_gradient``.

    Signals are ``[K, T, B, F]`` and, as the total, may be columns of a wider tensor.
    """
    n_members, n_steps, n_batch, n_hidden = states.shape
    held = (states, or_any(mask, states), states, signals)
    places = (n_steps * n_batch, n_batch, 0)
    _launch(n_members, n_hidden, signals, total, held, places, MASKED=mask is not None, SELECTED=False)


def collect(codes: Tensor | None, signals: tuple[Tensor, ...], tables: tuple[Tensor, ...]) -> None:
    """Add the signals ``[K, T, B, F]`` up by the row of the drive's table, each part ``[K, N, F]``; see ``Drive``."""
    if codes is None:
        return
    codes, n_places = codes.contiguous(), codes.shape[-2] * codes.shape[-1]
    code_stride = n_places if codes.ndim == 3 else 0
    for errors, table in zip(signals, tables, strict=True):
        held, places = (errors, errors, codes, errors), (n_places, 0, code_stride)
        _launch(len(errors), table.shape[1], errors, table, held, places, MASKED=False, SELECTED=True)


def sizes(n_rows: int, n_columns: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: the sum's, and how it is parted into tiles."""
    height, width = (min(TILE, max(16, triton.next_power_of_2(n))) for n in (n_rows, n_columns))
    return {"ROWS": n_rows, "COLUMNS": n_columns, "HEIGHT": height, "WIDTH": width, "PLACES": PLACES, "STAGES": STAGES}


def _launch(
    n_members: int,
    n_rows: int,
    signals: Tensor,
    total: Tensor,
    held: tuple[Tensor, ...],
    places: tuple[int, int, int],
    **options: bool,
) -> None:
    shape = sizes(n_rows, signals.shape[-1])
    n_tiles = triton.cdiv(n_rows, shape["HEIGHT"]) * triton.cdiv(shape["COLUMNS"], shape["WIDTH"])
    parts = total.new_empty(PARTS, n_members, n_rows, shape["COLUMNS"])
    grid = (n_tiles, n_members, PARTS)
    outer[grid](*held, parts, *places, **shape, **options, SIGNALS=signals.stride(2), num_warps=N_WARPS)
    torch.sum(parts, 0, out=total)


@triton.jit(do_not_specialize=["n_places", "first", "code_stride"])
def outer(
    states,
    mask,
    codes,
    signals,
    parts,
    n_places,
    first,
    code_stride,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGNALS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACES: tl.constexpr,
    STAGES: tl.constexpr,
    MASKED: tl.constexpr,
    SELECTED: tl.constexpr,
):
    """``sum_s l_s^T d_s``, ROWS by COLUMNS, over each part of the places s of a member from ``first`` on.

    d are the signals, whose rows are SIGNALS apart; ``l_s`` is the state at the place that is ``first`` before s,
    masked where there is a mask, or with SELECTED the unit vector that the code at s names.
    """
    k = tl.program_id(1).to(tl.int64)
    # The programs of a member run side by side and find what they read in the cache.
    n_across = (COLUMNS + WIDTH - 1) // WIDTH
    rows = tl.program_id(0) // n_across * HEIGHT + tl.arange(0, HEIGHT)
    columns = tl.program_id(0) % n_across * WIDTH + tl.arange(0, WIDTH)
    places = tl.arange(0, PLACES)
    added = tl.full((HEIGHT, WIDTH), 0.0, signals.dtype.element_ty)
    nothing = added
    part, n_parts = tl.program_id(2), tl.num_programs(2)
    for chunk in tl.range(first + part * PLACES, n_places, n_parts * PLACES, num_stages=STAGES):
        at, n_left = k * n_places + chunk, n_places - chunk
        error = load(signals + at * SIGNALS, places, columns, n_left, COLUMNS, SIGNALS, 1)
        if SELECTED:
            code = tl.load(codes + k * code_stride + chunk + places, mask=places < n_left, other=-1)
            entering = (rows[:, None] == code[None, :]).to(error.dtype)
        else:
            entering = load(states + (at - first) * ROWS, rows, places, ROWS, n_left, 1, ROWS)
            if MASKED:
                entering *= load(mask + at * ROWS, rows, places, ROWS, n_left, 1, ROWS)
        # Tensor cores cut off digits where they add: only short sums are theirs.
        added += dot(entering, error, nothing)
    start = parts + (part * tl.num_programs(1) + k) * ROWS * COLUMNS
    store(start, rows, columns, ROWS, COLUMNS, COLUMNS, 1, added)
