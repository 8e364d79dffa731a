"""The regulariser that fast dropout implies: its value and gradient, beside numerical and sampled ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

import tasks
from models import CELLS, FAST_CELLS
from models.dropout import Dropout, Keep, Noise
from models.network import Network
from reproductions.moments import name_of_cell
from study.training.draw import StreamDraws, keys
from study.training.loss import loss_and_slope
from tasks import Batch, Problem

TASKS = ("temporal_order", "adding")
"""One with a softmax, one with a squared error of a linear unit."""

N_HIDDEN, LENGTH, N_SEQUENCES, STEP = 30, 10, 8, 1e-5

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The regulariser R in two accounts, see ``compare``."""

    value: float
    sampled: float
    sampled_error: float
    numerical_error: float
    cosine: float
    length_ratio: float


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network of one member, sequences, and one rate for its three weight groups."""

    problem: Problem
    name: str
    p_drop: float
    batch: Batch
    weights: Parameters

    def network(self, dropout: Dropout) -> Network:
        """The network under this kind of dropout."""
        cells = FAST_CELLS if dropout is Dropout.FAST else CELLS
        return Network(
            cell=cells[name_of_cell(self.name)],
            dropout=dropout,
            n_in=self.problem.n_in,
            n_hidden=N_HIDDEN,
            n_out=self.problem.n_out,
        )

    def keep(self, p_keep: float) -> Keep:
        """This rate for all groups."""
        rate = torch.tensor([p_keep], dtype=torch.float64)
        return Keep(inputs=rate, recurrent=rate, outputs=rate)

    def of(self, network: Network, weights: Parameters, noise: Noise | None) -> tuple[float, dict[str, Tensor]]:
        """Loss and gradients; masks, where there are any, are of all sequences."""
        fast = network.dropout is Dropout.FAST
        losses = []

        def slope(output: Tensor) -> Tensor:
            averaged = output.new_ones(1, 1, 1, 1) if fast else None
            loss, slope = loss_and_slope(self.problem, self.batch, output, averaged)
            losses.append(float(loss))
            return slope

        keep = None if network.dropout is Dropout.NONE else self.keep(1 - self.p_drop)
        n_read = self.batch.n_read
        gradients = network.gradients(
            weights, self.batch.inputs, keep=keep, noise=noise, n_read=n_read, slope=slope, moments=fast
        )
        return losses[0], gradients

    def regulariser(self, weights: Parameters) -> tuple[float, dict[str, Tensor]]:
        """R and its gradient."""
        loss, gradients = self.of(self.network(Dropout.FAST), weights, None)
        plain, plain_gradients = self.of(self.network(Dropout.NONE), self.shrunk(weights), None)
        return loss - plain, {
            name: gradient - self.factor(name) * plain_gradients[name] for name, gradient in gradients.items()
        }

    def sampled(self, n_draws: int) -> tuple[float, float, dict[str, Tensor]]:
        """R with drawn masks, its standard error, and its gradient."""
        generator, network = Generator().manual_seed(1), self.network(Dropout.DROPOUT)
        plain, plain_gradients = self.of(self.network(Dropout.NONE), self.shrunk(self.weights), None)
        found, total = [], {name: torch.zeros_like(gradient) for name, gradient in plain_gradients.items()}
        for _ in range(n_draws):
            # Inverted masks divide by p_keep what these weights were multiplied by.
            loss, gradients = self.of(network, self.shrunk(self.weights), self.noise(generator))
            found.append(loss - plain)
            for name, gradient in gradients.items():
                total[name] += self.factor(name) * (gradient - plain_gradients[name]) / n_draws
        losses = torch.tensor(found)
        return float(losses.mean()), float(losses.std()) / n_draws**0.5, total

    def noise(self, generator: Generator) -> Noise:
        """Masks for all sequences."""
        n_droppable = 1 if self.problem.symbolic else self.problem.n_in
        n_sequences = self.batch.targets.shape[1]

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        return Noise(
            inputs=uniform(LENGTH, n_sequences, n_droppable),
            recurrent=uniform(LENGTH, n_sequences, N_HIDDEN),
            outputs=uniform(self.batch.n_read, n_sequences, N_HIDDEN),
        )

    def factor(self, name: str) -> float:
        """What a parameter is multiplied by in the plain network."""
        return 1.0 if "bias" in name else 1 - self.p_drop

    def shrunk(self, weights: Parameters) -> dict[str, Tensor]:
        """The plain network's parameters."""
        return {name: self.factor(name) * weight for name, weight in weights.items()}


def compare(name: str, p_drop: float, task: str, *, n_draws: int = 200, n_copies: int = 50) -> Comparison:
    """R(w) = loss on average over the noise - loss of the plain network with its weights times p_keep.

    Args:
        name: the units' nonlinearity.
        p_drop: rate of inputs, recurrent connections and outputs.
        task: name of one of ``TASKS``.
        n_draws: times that masks are drawn.
        n_copies: masks of each sequence that are drawn at a time.

    Source: Bayer et al. 2013, fast dropout as a regulariser. Differs: R is the whole of what the noise adds to the
    loss, where they look at the gradient by the variances.
    """
    case = _case(name, p_drop, task)
    value, gradient = case.regulariser(case.weights)
    inputs, targets = (part.repeat_interleave(n_copies, 1) for part in (case.batch.inputs, case.batch.targets))
    many = replace(case, batch=Batch(inputs=inputs, targets=targets))
    sampled, sampled_error, sampled_gradient = many.sampled(n_draws)
    ours, theirs = (torch.cat([one[name].flatten() for name in case.weights]) for one in (gradient, sampled_gradient))
    return Comparison(
        value=value,
        sampled=sampled,
        sampled_error=sampled_error,
        numerical_error=max(_numerical_error(case, parameter, gradient) for parameter in case.weights),
        cosine=float(torch.cosine_similarity(ours, theirs, dim=0)),
        length_ratio=float(ours.norm() / theirs.norm()),
    )


def _case(name: str, p_drop: float, task: str) -> Case:
    problem = tasks.TASKS[task]()
    batch = problem.sample(StreamDraws(keys((0,), "batch"), 0, N_SEQUENCES), LENGTH)
    if batch.targets.is_floating_point():
        batch = Batch(inputs=batch.inputs.double(), targets=batch.targets.double())
    case = Case(problem=problem, name=name, p_drop=p_drop, batch=batch, weights={})
    weights = case.network(Dropout.NONE).init(
        Generator().manual_seed(2), init="gaussian", init_scale=1.2, input_scale=1.0, forget_bias=0.0
    )
    return replace(case, weights={name: weight[None] for name, weight in weights.items()})


def _numerical_error(case: Case, parameter: str, gradient: Parameters) -> float:
    """Error of R's derivative along a random direction of one parameter, relative to it or to the usual one."""
    weight = case.weights[parameter]
    way = torch.randn(weight.shape, generator=Generator().manual_seed(3), dtype=torch.float64)
    # Short, so that hardly any rectifier of the plain network passes its kink.
    way /= way.norm()
    ahead, behind = (case.regulariser({**case.weights, parameter: weight + sign * STEP * way})[0] for sign in (1, -1))
    analytic, numerical = float((gradient[parameter] * way).sum()), (ahead - behind) / (2 * STEP)
    # A direction may be nearly level; what counts then is how steep a random one is.
    usual = float(gradient[parameter].square().mean().sqrt())
    return abs(analytic - numerical) / max(abs(numerical), usual)
