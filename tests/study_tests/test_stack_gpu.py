"""What a stack measures on a GPU is what it measures on a processor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from study.training.stack import Stack
from study_tests import stack_book

CASES = [("elman_tanh", "none"), ("elman_tanh", "fast"), ("lstm", "none"), ("gru", "none"), ("orthogonal_tanh", "none")]


RESOLVED = 10.0
"""Nats per step below the largest exponent; whether what is smaller counts as dead is decided by rounding."""


def resolved(spectrum: tuple[float, ...]) -> list[float]:
    return [max(one, spectrum[0] - RESOLVED) for one in spectrum]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("cell", "dropout"), CASES)
@pytest.mark.parametrize("task", ["temporal_order", "adding"])
def test_a_stack_measures_the_same_on_a_gpu(cell: str, dropout: str, task: str) -> None:
    plan = stack_book.plan(cell, dropout, task=task)
    here, there = (Stack(replace(plan, device=device)) for device in ("cpu", "cuda"))
    every = range(len(here.members))
    for found, expected in zip(there.probe(), here.probe(), strict=True):
        assert found.error_flow == pytest.approx(expected.error_flow, rel=1e-3)
        # Single precision: by how much a curve falls, and the shares of units that are counted.
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-2, abs=1e-3, nan_ok=True)
    for purpose in ("interim/1", "final/1"):
        found, expected = (stack.evaluate(purpose, 1000, every, (6, 7, 10)) for stack in (there, here))
        failed = [[rung.n_failed for rung in rungs] for rungs in found]
        # The same sequences; of those whose answer is decided by the last bits there are few.
        assert failed == [[pytest.approx(rung.n_failed, abs=3) for rung in rungs] for rungs in expected]
    for found, expected in zip(there.spectra(every), here.spectra(every), strict=True):
        assert resolved(found) == pytest.approx(resolved(expected), rel=1e-2, abs=1e-2)
