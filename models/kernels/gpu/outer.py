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
    _sum(signals, states, mask, total, None, None)


def collect(codes: Tensor | None, signals: Tensor, table: Tensor) -> None:
    """Add the signals ``[K, T, B, F]`` up by the row of the drive's table, ``[K, N, F]``, see ``Drive``.

    Nothing without codes: such a table has a row for every signal.
    """
    if codes is not None:
        _sum(signals, None, None, None, codes, table)


def multiply_and_collect(
    states: Tensor, mask: Tensor | None, codes: Tensor | None, signals: Tensor, total: Tensor, table: Tensor
) -> None:
    """Both, in one pass over the signals, half or more of what they read, if one tile has room for the symbols."""
    if codes is not None and table.shape[1] <= TILE:
        _sum(signals, states, mask, total, codes, table)
    else:
        multiply(states, mask, signals, total)
        collect(codes, signals, table)


def sizes(n_units: int, n_symbols: int, n_columns: int) -> dict[str, int]:
    """Sizes that a kernel is compiled for: the sums', and how they are parted into tiles; of 0 rows there is no sum."""
    height, few, width = (min(TILE, max(16, triton.next_power_of_2(n))) for n in (n_units, n_symbols, n_columns))
    tiles = {"HEIGHT": height, "FEW": few, "WIDTH": width, "PLACES": PLACES, "STAGES": STAGES}
    # Rows that a tile reaches over when it reaches over the end of one.
    spare = triton.cdiv(TILE, min(n_columns, n_units or n_columns))
    return {"UNITS": n_units, "SYMBOLS": n_symbols, "COLUMNS": n_columns, **tiles, "SPARE": spare}


def _sum(
    signals: Tensor,
    states: Tensor | None,
    mask: Tensor | None,
    total: Tensor | None,
    codes: Tensor | None,
    table: Tensor | None,
) -> None:
    """One pass: of ``multiply`` where there are states, and of ``collect`` where there are codes."""
    n_members, n_steps, n_batch, n_columns = signals.shape
    n_units, n_symbols = 0 if states is None else states.shape[-1], 0 if table is None else table.shape[1]
    shape = sizes(n_units, n_symbols, n_columns)
    n_rows = max(triton.cdiv(n_units, shape["HEIGHT"]), 1 if n_units > 0 else triton.cdiv(n_symbols, shape["FEW"]))
    grid = (n_rows * triton.cdiv(n_columns, shape["WIDTH"]), n_members, PARTS)
    products = signals.new_empty(PARTS, n_members, n_units, n_columns)
    picked = signals.new_empty(PARTS, n_members, n_symbols, n_columns)
    codes = None if codes is None else codes.contiguous()
    apart = n_steps * n_batch if codes is not None and codes.ndim == 3 else 0
    held = (or_any(states, signals), or_any(mask, signals), or_any(codes, signals), signals, products, picked)
    options = {"MASKED": mask is not None, "SIGNALS": signals.stride(2)}
    outer[grid](*held, n_steps * n_batch, n_batch, apart, **shape, **options, num_warps=N_WARPS)
    if total is not None:
        torch.sum(products, 0, out=total)
    if table is not None:
        torch.sum(picked, 0, out=table)


@triton.jit(do_not_specialize=["n_places", "n_batch", "code_stride"])
def outer(
    states,
    mask,
    codes,
    signals,
    products,
    picked,
    n_places,
    n_batch,
    code_stride,
    UNITS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGNALS: tl.constexpr,
    HEIGHT: tl.constexpr,
    FEW: tl.constexpr,
    WIDTH: tl.constexpr,
    PLACES: tl.constexpr,
    SPARE: tl.constexpr,
    STAGES: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Sums over each part of the places s of a member, whose signals d_s are SIGNALS apart.

    ``sum_s l_s^T d_s``, UNITS by COLUMNS, of the states l_s at the places that are a step before s, masked where there
    is a mask; and, SYMBOLS by COLUMNS, the same of the unit vectors that the codes at s name. Where both are asked for,
    each program has all symbols.
    """
    k = tl.program_id(1).to(tl.int64)
    # The programs of a member run side by side and find what they read in the cache.
    n_across = (COLUMNS + WIDTH - 1) // WIDTH
    tile = tl.program_id(0) // n_across
    columns = tl.program_id(0) % n_across * WIDTH + tl.arange(0, WIDTH)
    units, symbols = tile * HEIGHT + tl.arange(0, HEIGHT), tl.arange(0, FEW)
    if UNITS == 0:
        symbols += tile * FEW
    number = signals.dtype.element_ty
    product, pick = tl.full((HEIGHT, WIDTH), 0.0, number), tl.full((FEW, WIDTH), 0.0, number)
    part, n_parts = tl.program_id(2), tl.num_programs(2)
    codes += k * code_stride
    # From the first chunk that has a step before all of it to the last one that has room behind it for padded rows.
    begin, n_chunks = (n_batch + PLACES - 1) // PLACES, (n_places + PLACES - 1) // PLACES
    end = tl.maximum(begin, (n_places - SPARE) // PLACES)
    for chunk in tl.range(begin + part, end, n_parts, num_stages=STAGES):
        product, pick = add(
            product, pick, states, mask, codes, signals, k, chunk * PLACES, n_places, n_batch, units, symbols, columns,
            UNITS, SYMBOLS, COLUMNS, SIGNALS, PLACES, MASKED, WHOLE=True
        )  # fmt: skip
    for other in tl.range(part, begin + n_chunks - end, n_parts, num_stages=1):
        chunk = tl.where(other < begin, other, other - begin + end)
        product, pick = add(
            product, pick, states, mask, codes, signals, k, chunk * PLACES, n_places, n_batch, units, symbols, columns,
            UNITS, SYMBOLS, COLUMNS, SIGNALS, PLACES, MASKED, WHOLE=False
        )  # fmt: skip
    found = part * tl.num_programs(1) + k
    if UNITS > 0:
        store(products + found * UNITS * COLUMNS, units, columns, UNITS, COLUMNS, COLUMNS, 1, product)
    if SYMBOLS > 0:
        # Where there are several tiles of units each has the same.
        store(picked + found * SYMBOLS * COLUMNS, symbols, columns, SYMBOLS, COLUMNS, COLUMNS, 1, pick)


@triton.jit
def add(
    product,
    pick,
    states,
    mask,
    codes,
    signals,
    k,
    first,
    n_places,
    n_batch,
    units,
    symbols,
    columns,
    UNITS: tl.constexpr,
    SYMBOLS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGNALS: tl.constexpr,
    PLACES: tl.constexpr,
    MASKED: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Both sums of ``outer`` with those of the PLACES from ``first`` on added.

    WHOLE says that there are so many, all with a step before them, and more behind them: then nothing is left out of
    what is read. Sums for units and columns that are not real then hold anything.
    """
    places, n_left, at = tl.arange(0, PLACES), n_places - first, k * n_places + first
    error_at = signals + at * SIGNALS + places[:, None] * SIGNALS + columns[None, :]
    code_at = codes + first + places
    real = (places < n_left)[:, None] & (columns < COLUMNS)[None, :]
    error = tl.load(error_at) if WHOLE else tl.load(error_at, mask=real, other=0.0)
    # Tensor cores cut off digits where they add: only short sums are theirs.
    if UNITS > 0:
        state_at = states + (at - n_batch) * UNITS + places[None, :] * UNITS + units[:, None]
        known = (units < UNITS)[:, None] & ((places < n_left) & (places + first >= n_batch))[None, :]
        entering = tl.load(state_at) if WHOLE else tl.load(state_at, mask=known, other=0.0)
        if MASKED:
            entering *= load(mask + at * UNITS, units, places, UNITS, n_left, 1, UNITS)
        nothing = tl.full(product.shape, 0.0, product.dtype)
        product += dot(entering, error, nothing, INFINITE=False)
    if SYMBOLS > 0:
        code = tl.load(code_at) if WHOLE else tl.load(code_at, mask=places < n_left, other=-1)
        nothing = tl.full(pick.shape, 0.0, pick.dtype)
        pick += dot((symbols[:, None] == code[None, :]).to(error.dtype), error, nothing, INFINITE=False)
    return product, pick
