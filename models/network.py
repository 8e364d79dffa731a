"""A stack of whole networks: input projection, recurrent cell, linear readout, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from models.cell import Cell, Flow, Gradients, Tape, Weights
from models.drive import Drive
from models.dropout import Dropout, Keep, Noise
from models.initial import INITIALISERS, SLOW, Leak, chrono
from models.projection import collect, is_code, project
from models.readout import Readout
from models.unroll import unroll

Slope = Callable[[Tensor], Tensor]
"""Maps outputs ``[K, R, B, n_out]`` to the gradient of a loss with respect to them."""

Penalty = Callable[[Tape, Flow, Tensor, Tensor | None], Tensor]
"""Maps tape, error flow, the cotangent of the states that are read and the mask to what is added to the gradient by the
recurrent matrix.
"""

INFERENCE_ITEMS, GPU_INFERENCE_ITEMS = 2**23, 2**27
"""Net inputs of all members, steps and sequences for which there is room in inference: 32 MiB of single precision on a
processor, which is as fast as less or more, and 512 MiB on a GPU, which is the faster the more sequences it has. What a
cell holds besides is up to four times as much.
"""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The shape of a network; its parameters live outside, in a mapping with a leading member axis.

    ``a_t = x_t W_in + b + h_{t-1} W``, ``h_t = cell(a_t)``, ``y = h W_out + b_out`` at the last R steps, with ``input``
    ``[K, n_in, G*H]``, ``bias`` ``[K, G*H]``, ``readout`` ``[K, H, n_out]``, ``readout_bias`` ``[K, n_out]`` and the
    cell's own recurrent parameters. Dropout has rates of its own on x, on h before W and on h before W_out.
    """

    cell: Cell
    dropout: Dropout
    n_in: int
    n_hidden: int
    n_out: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of one member, in the order in which they are stored."""
        width = self.cell.n_gates * self.n_hidden
        return {
            "input": (self.n_in, width),
            "bias": (width,),
            **self.cell.shapes(self.n_hidden),
            "readout": (self.n_hidden, self.n_out),
            "readout_bias": (self.n_out,),
        }

    def init(
        self,
        generator: Generator,
        *,
        init: str,
        init_scale: float,
        input_scale: float,
        forget_bias: float,
        chrono_length: float | None = None,
        leak: Leak = SLOW,
    ) -> dict[str, Tensor]:
        """Parameters of one member, float64 on the CPU.

        Every recurrent block is ``init_scale`` times a matrix that the named initialiser draws for it, and what else
        the cell draws is as it says; input weights are Gaussian with ``input_scale`` times its standard deviation,
        readout weights with its own; biases are zero but for the forget gate's, which are ``forget_bias``, or of a
        chrono initialisation for memories of up to ``chrono_length`` steps, which negates them for the input gate. What
        the cell does not train it draws last.
        """
        weights = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in self.shapes().items()}
        how = INITIALISERS[init]
        if "recurrent" in weights:
            *layers, _, _ = shape = weights["recurrent"].shape
            gates, draw = range(self.cell.n_gates), partial(how.recurrent, generator, self.n_hidden)
            matrices = [torch.cat([init_scale * draw() for _ in gates], dim=1) for _ in range(math.prod(layers))]
            weights["recurrent"] = torch.stack(matrices).view(shape)
        weights |= self.cell.initial(generator, self.n_hidden)
        weights["input"].normal_(0.0, input_scale * how.input_deviation(self.n_in), generator=generator)
        weights["readout"].normal_(0.0, how.readout_deviation(self.n_hidden), generator=generator)
        biases = weights["bias"].view(self.cell.n_gates, self.n_hidden)
        if self.cell.forget_gate is not None:
            biases[self.cell.forget_gate] = forget_bias
            if chrono_length is not None:
                biases[self.cell.forget_gate] = chrono(generator, self.n_hidden, chrono_length)
                if self.cell.input_gate is not None:
                    biases[self.cell.input_gate] = -biases[self.cell.forget_gate]
        return weights | self.cell.fixed(generator, self.n_hidden, leak)

    def output(
        self, weights: Weights, inputs: Tensor, *, keep: Keep | None, noise: Noise | None, n_read: int
    ) -> Tensor:
        """Outputs at the last ``n_read`` steps in training, ``[K, R, B, n_out]``, differentiable in the weights.

        Args:
            weights: all parameters, leading axis K.
            inputs: codes ``[T, B]`` or values ``[T, B, n_in]``, or with a leading member axis.
            keep: rates of this stack; None without dropout.
            noise: what masks are made from; None unless the kind is ``dropout``.
            n_read: number R of final steps that are read.
        """
        drive, mask = self._noisy_drive(weights, inputs, keep, noise) if noise else self.drive(weights, inputs, keep)
        states = unroll(self.cell, self.recurrent(weights), drive, mask, n_read)
        return Readout(weights=weights, states=states, gain=self._output_gain(keep, noise)).output()

    @torch.inference_mode()
    def infer(self, weights: Weights, inputs: Tensor, *, keep: Keep | None, n_read: int) -> Tensor:
        """Outputs as ``output`` gives them, without dropout noise, a few sequences at a time to bound the memory.

        Fast dropout keeps propagating its moments: the network that is evaluated is the one that was trained.
        """
        n_steps = inputs.shape[_time_axis(inputs)]
        if is_code(inputs):
            # The drive of values is laid out for all steps; symbols select theirs at each.
            n_steps = self.cell.n_kept(n_steps, n_read, inputs.device)
        room = GPU_INFERENCE_ITEMS if inputs.is_cuda else INFERENCE_ITEMS
        n_together = max(1, room // (n_steps * weights["bias"].numel()))
        parts = torch.split(inputs, n_together, _time_axis(inputs) + 1)
        return torch.cat([self._answers(weights, some, keep, n_read) for some in parts], dim=2)

    def _answers(self, weights: Weights, inputs: Tensor, keep: Keep | None, n_read: int) -> Tensor:
        """Outputs without dropout noise; nothing of a pass outlives it."""
        drive, gain = self.drive(weights, inputs, keep)
        states = self.cell.read(self.recurrent(weights), drive, gain, n_read)
        return Readout(weights=weights, states=states, gain=self._output_gain(keep, None)).output()

    @torch.no_grad()
    def gradients(
        self,
        weights: Weights,
        inputs: Tensor,
        *,
        keep: Keep | None,
        noise: Noise | None,
        n_read: int,
        slope: Slope,
        moments: bool = False,
        l1_states: Tensor | None = None,
        penalty: Penalty | None = None,
        window: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Gradient of a loss of ``output`` by every parameter, without autograd: one pass forward and one back.

        The arguments are those of ``output``; how the loss depends on the outputs, and in fast dropout whether it does
        so on their moments, which are then given to ``slope`` as ``Readout.output`` gives them; per member, ``[K]``,
        the factor of ``mean_b sum_t |h_t|_1``, which is added to the loss; what recurrent weights pay for the error
        flow; and per member, int64 ``[K]``, the steps of the windows in which errors flow back, see
        ``models.truncation.reach``. The flow that is paid for is whole, and with windows it takes a pass of its own.
        """
        drive, mask = self._noisy_drive(weights, inputs, keep, noise) if noise else self.drive(weights, inputs, keep)
        # Members' parameters lie apart from one another: both passes need them together.
        recurrent = {name: weight.contiguous() for name, weight in self.recurrent(weights).items()}
        tape = self.cell.forward(recurrent, drive, mask)
        readout = Readout(
            weights=weights,
            states=tape.states[:, -n_read:],
            gain=self._output_gain(keep, noise),
            variance=self.cell.variance(tape, n_read) if moments else None,
        )
        cotangent, by_readout = readout.back(slope(readout.output()))
        if l1_states is not None:
            cotangent = _with_l1(cotangent, tape.states, l1_states)
        gradients: Gradients
        if penalty is None:
            gradients = self.cell.gradients(recurrent, tape, mask, cotangent, window)
        else:
            flow = self.cell.backward(recurrent, tape, mask, cotangent)
            gradients = flow if window is None else self.cell.gradients(recurrent, tape, mask, cotangent, window)
            gradients.weights["recurrent"].add_(penalty(tape, flow, cotangent, mask))
        return {
            **self._input_gradients(weights, inputs, keep, noise, gradients),
            **gradients.weights,
            **by_readout,
        }

    @torch.no_grad()
    def flow(
        self, weights: Weights, inputs: Tensor, *, keep: Keep | None, n_read: int, slope: Slope
    ) -> tuple[Tape, Flow]:
        """One noiseless pass forward and back: the tape of states and the error flow through them.

        In fast dropout the loss is that of the outputs' means.
        """
        drive, gain = self.drive(weights, inputs, keep)
        tape = self.cell.forward(self.recurrent(weights), drive, gain)
        states = tape.states[:, -n_read:]
        readout = Readout(weights=weights, states=states, gain=self._output_gain(keep, None))
        cotangent, _ = readout.back(slope(readout.output()))
        recurrent = self.recurrent(weights)
        flow = self.cell.backward(recurrent, tape, gain, cotangent)
        return tape, replace(flow, state=self.cell.state_flow(recurrent, tape, flow, cotangent))

    def _input_gradients(
        self, weights: Weights, inputs: Tensor, keep: Keep | None, noise: Noise | None, gradients: Gradients
    ) -> dict[str, Tensor]:
        """Gradients of input matrix and bias from those of the drive; the counterpart of ``drive``."""
        mask = noise.input_mask(keep) if noise and keep and not is_code(inputs) else None
        by_matrix, by_bias = collect(inputs, mask, gradients.drive[0])
        if noise and keep and is_code(inputs):
            # The last row stood for dropped symbols.
            by_matrix = by_matrix[:, :-1] / keep.inputs[:, None, None]
        if self.dropout is Dropout.FAST and keep is not None:
            p_keep = keep.inputs[:, None, None]
            by_square, _ = collect(inputs if is_code(inputs) else inputs.square(), None, gradients.drive[1])
            by_matrix = p_keep * torch.addcmul(by_matrix, (1 - p_keep) * weights["input"], by_square, value=2)
        return {"input": by_matrix, "bias": by_bias}

    def recurrent(self, weights: Weights) -> Weights:
        """The cell's own parameters."""
        return {name: weights[name] for name in self.cell.shapes(self.n_hidden)}

    def drive(self, weights: Weights, inputs: Tensor, keep: Keep | None) -> tuple[Drive, Tensor | None]:
        """The input's part of the net input without sampled noise, and fast dropout's p_keep ``[K, 1, 1]`` or None."""
        if self.dropout is not Dropout.FAST:
            return project(inputs, weights["input"], weights["bias"]), None
        if keep is None:
            raise ValueError("fast dropout needs its rates, but got keep=None")
        p_keep = keep.inputs[:, None, None]
        mean = project(inputs, p_keep * weights["input"], weights["bias"])
        # Var[z x] = p (1 - p) x^2: a dropped-out input is a Bernoulli variable times a constant.
        squares = inputs if is_code(inputs) else inputs.square()
        variance = project(squares, p_keep * (1 - p_keep) * weights["input"].square(), None)
        return Drive(parts=(*mean.parts, *variance.parts), codes=mean.codes), self.gain(keep)

    def gain(self, keep: Keep | None) -> Tensor | None:
        """Fast dropout's probability of keeping a recurrent unit, ``[K, 1, 1]``; None for other kinds."""
        return keep.recurrent[:, None, None] if self.dropout is Dropout.FAST and keep is not None else None

    def _noisy_drive(
        self, weights: Weights, inputs: Tensor, keep: Keep | None, noise: Noise
    ) -> tuple[Drive, Tensor | None]:
        if keep is None:
            raise ValueError("dropout needs its rates, but got keep=None")
        if is_code(inputs):
            # A dropped symbol selects one more row, in which there is only the bias.
            p_keep = keep.inputs[:, None, None]
            table = pad(weights["input"] / p_keep, (0, 0, 0, 1))
            drive = project(torch.where(noise.symbol_kept(inputs, keep), inputs, self.n_in), table, weights["bias"])
        else:
            drive = project(inputs * noise.input_mask(keep), weights["input"], weights["bias"])
        return drive, noise.recurrent_mask(keep)

    def _output_gain(self, keep: Keep | None, noise: Noise | None) -> Tensor | None:
        """What states are multiplied by on their way into the readout: fast dropout's p_keep, or a mask, or None."""
        if keep is None or keep.outputs is None:
            return None
        if self.dropout is Dropout.FAST:
            return keep.outputs[:, None, None, None]
        return None if noise is None else noise.output_mask(keep)


def _time_axis(inputs: Tensor) -> int:
    return inputs.ndim - (2 if is_code(inputs) else 3)


def _with_l1(cotangent: Tensor, states: Tensor, weight: Tensor) -> Tensor:
    """The cotangent of all states, ``[K, T, B, ...]``, where the loss grows by ``weight * mean_b sum_t |h_t|_1``."""
    every = states.sign().mul_(weight[:, None, None, None] / states.shape[2])
    # Of variances, where the loss depends on them, nothing is added.
    every = pad(every, (0, cotangent.shape[-1] - every.shape[-1]))
    every[:, -cotangent.shape[1] :] += cotangent
    return every
