"""The readout of moments: against sampled masks, and against autograd through the whole of a fast dropout network."""

from __future__ import annotations

import pytest
import torch
from models_tests.network_book import (
    N_HIDDEN,
    N_MEMBERS,
    N_OUT,
    N_READ,
    N_SEQUENCES,
    assert_close,
    draw_inputs,
    draw_weights,
    every_batch,
    every_input,
    network,
    normal,
    seeded,
)
from torch import Tensor
from torch.autograd import grad

from models import FAST_CELLS
from models.dropout import Dropout, Keep
from models.network import Network
from models.readout import Readout

P_KEEP = torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("p_drop", [0.1, 0.2, 0.5, 0.8])
def test_output_has_the_moments_of_outputs_with_sampled_masks(p_drop: float) -> None:
    n_draws, generator = 200_000, seeded(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    matrix, mean, half_width = uniform(N_HIDDEN, N_OUT) - 0.5, uniform(N_HIDDEN), uniform(N_HIDDEN)
    # Uniform states, so that they are not the normal ones of the theory; their variance is half_width^2 / 3.
    states = mean + half_width * (2 * uniform(n_draws, N_HIDDEN) - 1)
    sampled = (states * (uniform(n_draws, N_HIDDEN) < 1 - p_drop)) @ matrix + 0.7
    readout = Readout(
        weights={"readout": matrix[None], "readout_bias": torch.full((1, N_OUT), 0.7, dtype=torch.float64)},
        states=mean[None, None, None],
        gain=torch.full((1, 1, 1, 1), 1 - p_drop, dtype=torch.float64),
        variance=half_width.square()[None, None, None] / 3,
    )
    expected, variance = readout.output()[0, 0, 0].chunk(2)
    square = (sampled - sampled.mean(0)).square()
    # Six standard errors of each output.
    assert ((sampled.mean(0) - expected).abs() < 6 * sampled.std(0) / n_draws**0.5).all()
    assert ((square.mean(0) - variance).abs() < 6 * square.std(0) / n_draws**0.5).all()


def stepped(shape: Network, weights: dict[str, Tensor], inputs: Tensor, keep: Keep) -> Tensor:
    """Means of all steps, and means and variances of the outputs at the last ones, by steps under autograd."""
    drive, gain = shape.drive(weights, inputs, keep)
    parts = drive.dense()
    state = shape.cell.start(parts[0][:, 0])
    outputs = []
    for t in range(parts[0].shape[1]):
        state = shape.cell.step({"recurrent": weights["recurrent"]}, state, tuple(part[:, t] for part in parts), gain)
        p = 1 if keep.outputs is None else keep.outputs[:, None, None]
        mean = p * state[0] @ weights["readout"] + weights["readout_bias"][:, None]
        # Var[z h] = E[z^2 h^2] - E[z h]^2, with E[z^2] = p and E[h^2] = v + m^2.
        noise = p * (state[1] + state[0].square()) - (p * state[0]).square()
        outputs.append(torch.cat((mean, noise @ weights["readout"].square()), dim=-1))
    return torch.stack(outputs[-N_READ:], dim=1)


@pytest.mark.parametrize("name", FAST_CELLS)
@every_input
@every_batch
@pytest.mark.parametrize("dropping", [True, False])
def test_gradients_are_autograds_where_the_loss_depends_on_the_moments(
    name: str, coded: bool, own: bool, dropping: bool
) -> None:
    shape = network(FAST_CELLS[name], Dropout.FAST)
    weights, inputs = draw_weights(shape), draw_inputs(coded, own)
    keep = Keep(inputs=P_KEEP, recurrent=P_KEEP.flip(0), outputs=P_KEEP.roll(1) if dropping else None)
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, 2 * N_OUT, seed=40)
    given = []

    def slope(moments: Tensor) -> Tensor:
        given.append(moments)
        return 2 * (moments - target)

    outputs = stepped(shape, weights, inputs, keep)
    expected = grad((outputs - target).square().sum(), tuple(weights.values()))
    actual = shape.gradients(weights, inputs, keep=keep, noise=None, n_read=N_READ, slope=slope, moments=True)
    assert_close(given[0], outputs.detach())
    assert_close(tuple(actual[name] for name in weights), expected)


def test_gradients_with_a_penalty_on_states_add_to_those_of_the_moments() -> None:
    shape = network(FAST_CELLS["elman_tanh"], Dropout.FAST)
    weights, inputs = draw_weights(shape), draw_inputs(True, False)
    keep, factor = Keep(inputs=P_KEEP, recurrent=P_KEEP), torch.tensor([0.0, 0.3, 2.0]).double()
    target = normal(N_MEMBERS, N_READ, N_SEQUENCES, 2 * N_OUT, seed=40)

    def gradients(moments: bool, l1_states: Tensor | None) -> Tensor:
        found = shape.gradients(
            weights,
            inputs,
            keep=keep,
            noise=None,
            n_read=N_READ,
            slope=lambda y: 2 * (y - target) if moments else torch.zeros_like(y),
            moments=moments,
            l1_states=l1_states,
        )
        return torch.cat([gradient.flatten(1) for gradient in found.values()], dim=1)

    # Gradients are linear in the loss.
    assert_close(gradients(True, factor), gradients(True, None) + gradients(False, factor))
