"""Numbers for one purpose have nothing in common with those for another: purposes, members and updates apart."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models import philox
from study.plan import Hyperparameters
from study.training.stack import Stack
from study_tests.stack_book import plan

N = 16
"""Numbers that are compared; that so many agree by chance has a probability of 2^-384."""


def stack(batches: str) -> Stack:
    """Two members that read all the noise there is."""
    whole = plan("elman_tanh", "dropout", batches)
    reading = Hyperparameters(dropout="dropout", p_drop_output=0.5, dropout_masks="sequence")
    return Stack(replace(whole, members=tuple(replace(one, hyperparameters=reading) for one in whole.members[:2])))


def noise_of(made: Stack, update: int) -> dict[str, Tensor]:
    _, noise = made.feed.draw(update, made.members)
    assert noise is not None
    parts = {name: getattr(noise, name) for name in ("inputs", "recurrent", "outputs", "symbols")}
    return {name: part.reshape(-1)[:N] for name, part in parts.items()}


@pytest.mark.parametrize("batches", ["shared", "own"])
def test_all_noise_is_drawn_apart(batches: str) -> None:
    made = stack(batches)
    found = [*noise_of(made, 3).values(), *noise_of(made, 4).values()]
    assert all(len(one) == N for one in found)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(found, 2))


def test_members_that_draw_their_own_have_other_noise_and_sequences() -> None:
    made = stack("own")
    batch, noise = made.feed.draw(3, made.members)
    assert noise is not None
    for part in (batch.inputs, noise.inputs, noise.recurrent, noise.outputs, noise.symbols):
        assert part is not None
        assert not torch.equal(part[0], part[1])


@pytest.mark.parametrize("batches", ["shared", "own"])
def test_training_noise_and_measurement_draw_from_streams_of_their_own(
    monkeypatch: pytest.MonkeyPatch, batches: str
) -> None:
    made, used = stack(batches), dict[str, set[int]]()

    def noted(name: str) -> None:
        before = getattr(philox, name)

        def draw(keys: Tensor, *rest: int, **options: int) -> Tensor:
            used.setdefault(purpose, set()).update(keys.tolist())
            found: Tensor = before(keys, *rest, **options)
            return found

        monkeypatch.setattr(philox, name, draw)

    noted("integers")
    purpose = "batch"
    made.feed.draw(0, made.members)
    noted("uniform")
    # Temporal order draws integers only.
    purpose = "both"
    made.feed.draw(0, made.members)
    used["noise"] = used.pop("both") - used["batch"]
    for purpose in ("final/0", "interim/0"):
        made.evaluate(purpose, 100, [0])
    purpose = "probe"
    made.probe()
    n_streams = len(made.members) if batches == "own" else 1
    assert len(used["batch"]) == len(used["noise"]) == n_streams
    assert not any(one & other for one, other in itertools.combinations(used.values(), 2))
