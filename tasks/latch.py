"""Latch: one bit, told at the very beginning, to be kept against noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tasks.draw import Draws
from tasks.regression import Bit
from tasks.task import Batch

N_TOLD = 3
"""Number L of first steps that tell the class."""

NOISE_SD = 0.2


class Latch(Bit):
    """The first three steps tell one of two classes, all later ones are noise; the class is read at the last step.

    Lines 0 ... 5 are one-hot over class and step: at step t < 3 line ``3 * class + t`` is 1, and none later. Line 6 is
    Gaussian noise of mean 0 and standard deviation 0.2 from step 3 on, and 0 before. The target is -0.8 for class 0 and
    +0.8 for class 1. Each of the three steps tells the class by itself, so that the lag counts from the last of them.

    Source: Bengio, Simard & Frasconi 1994, the minimal latch task, T = 20 and L = 3; known from others' accounts of
    that paper. Differs: there the net is a single tanh unit and the loss is on the unit itself; here it is any network
    with a linear readout. There the inputs h_t of the first L steps are trainable numbers, one set per class; here they
    are the input weights of the six class lines, one per class, step and unit, and start as the network's
    initialisation has them, where the paper's are small and uniform. There noise is added to the net input as it is;
    here it comes through a trainable weight, so that a network can learn to let less of it in. There the noise's size s
    and the unit's initial weight are varied (s = 0.2 where T is varied); here it is that one size. The loss there is
    the sum over patterns, here the mean. Accounts differ in whether 0.2 is the noise's standard deviation or variance,
    and in which class has the target +0.8. The rule that fails a sequence, a wrong sign, is ours: the accounts give
    none.
    """

    name = "latch"
    source = "Bengio, Simard & Frasconi 1994, minimal latch task"
    # One step of noise after the class is told.
    shortest_length = N_TOLD + 1
    symbolic = False
    n_in = 2 * N_TOLD + 1

    def sample(self, draws: Draws, length: int) -> Batch:
        """Values ``[T, B, 7]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        classes = draws.integers(0, 2)
        steps = torch.arange(N_TOLD)[:, None]
        inputs = torch.zeros(length, draws.n_sequences, self.n_in)
        inputs[:N_TOLD, :, :-1] = one_hot(N_TOLD * classes + steps, self.n_in - 1).float()
        inputs[N_TOLD:, :, -1] = NOISE_SD * draws.normal(length - N_TOLD)
        return Batch(inputs=inputs, targets=self.TARGET * (2.0 * classes - 1.0)[None, :, None])

    def min_lag(self, length: int) -> int:
        """``T - 3``: from the last step that tells the class to the last step."""
        return length - N_TOLD

    def _sign(self, inputs: Tensor) -> Tensor:
        # Step 2 is the last to tell the class.
        told = inputs[..., N_TOLD - 1 : N_TOLD, :, :-1]
        return told[..., -1:] - told[..., N_TOLD - 1 : N_TOLD]
