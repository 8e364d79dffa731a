"""Random numbers by counter, against the vectors that Random123 is tested with and the definition in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models import philox
from models.kernels.cpu.philox import chunk

KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""Counter, key and words of philox4x32-10 in Random123's kat_vectors."""

KEYS, INDEX, CALL = torch.tensor([0, 7, 2**63 - 1]), 2**40 + 3, 5


def both(low: int, high: int) -> int:
    """Two words of 32 bits as one signed number of 64."""
    return int(np.array([low | high << 32], np.uint64).astype(np.int64)[0])


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Equations of Salmon et al. 2011, section 3.1, with Python's integers."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        one, other = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = other >> 32 ^ b ^ left, other % 2**32, one >> 32 ^ d ^ right, one % 2**32
        left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
    return a, b, c, d


def word(key: int, n: int) -> int:
    """The n-th number of a stream at ``INDEX`` and ``CALL``."""
    block, which = n // 256 * 64 + n % 64, n % 256 // 64
    return philox4x32((block, CALL, INDEX % 2**32, INDEX >> 32), (key % 2**32, key >> 32))[which]


def words(n: int) -> Tensor:
    return torch.tensor([[word(key, k) for k in range(n)] for key in KEYS.tolist()], dtype=torch.int64)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_words_are_those_that_random123_is_tested_with(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert philox4x32(counter, key) == expected
    found = np.empty(256, np.uint32)
    chunk(both(*key), both(*counter[2:]), counter[1], counter[0] // 64, found)
    assert tuple(int(one) for one in found[counter[0] % 64 :: 64]) == expected


@pytest.mark.parametrize("sizes", [(1, 1), (3, 20), (100, 7), (2, 300), (0, 4)])
@pytest.mark.parametrize(("low", "high"), [(0, 2), (-3, 4), (5, 5 + 2**32), (0, 2**31)])
def test_integers_scale_the_words_of_each_stream_in_columns_of_its_own(
    sizes: tuple[int, int], low: int, high: int
) -> None:
    n, n_columns = sizes
    found = philox.integers(KEYS, INDEX, CALL, n, low=low, high=high, n_columns=n_columns)
    # Python's integers, because the product takes up to 64 bits.
    expected = [[low + (one * (high - low) >> 32) for one in stream] for stream in words(n * n_columns).tolist()]
    by_stream = found.view(n, len(KEYS), n_columns).movedim(1, 0).flatten(1)
    assert by_stream.tolist() == expected


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("shape", [(1,), (5, 3), (600,), (0,)])
def test_uniform_numbers_are_the_upper_bits_of_the_words(shape: tuple[int, ...], n_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        found = philox.uniform(KEYS, INDEX, CALL, *shape)
    finally:
        torch.set_num_threads(before)
    assert found.shape == (3, *shape)
    assert found.dtype == torch.float32
    n = torch.Size(shape).numel()
    assert torch.equal(found.flatten(1).double(), (words(n) >> 8) / 2.0**24)


@pytest.mark.parametrize("other", [(KEYS + 2, INDEX, CALL), (KEYS, INDEX + 1, CALL), (KEYS, INDEX, CALL + 1)])
def test_numbers_of_other_streams_indices_and_calls_are_unrelated(other: tuple[Tensor, int, int]) -> None:
    n = 10_000
    one, two = (
        philox.uniform(*place, n).double() - 0.5 for place in ((KEYS[:2], INDEX, CALL), (other[0][:2], *other[1:]))
    )
    correlation = (one * two).mean(1) * 12
    # Standard error 1 / sqrt(n); four of them.
    assert bool((correlation.abs() < 4 / n**0.5).all())


@pytest.mark.parametrize(("low", "high"), [(3, 3), (3, 2), (0, 2**32 + 1)])
def test_integers_refuse_a_range_that_is_empty_or_too_wide(low: int, high: int) -> None:
    with pytest.raises(ValueError, match=f"low < high <= low \\+ 2\\^32 must hold, but got low={low}, high={high}"):
        philox.integers(KEYS, INDEX, CALL, 4, low=low, high=high, n_columns=2)


def test_noise_is_the_same_on_a_device_that_has_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = philox.uniform(KEYS, INDEX, CALL, 7)
    monkeypatch.setattr(philox, "kernels_for", lambda device: None)
    assert torch.equal(philox.uniform(KEYS, INDEX, CALL, 7), expected)


def test_noise_is_in_single_precision_whatever_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert philox.uniform(KEYS, INDEX, CALL, 7).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
