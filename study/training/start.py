"""Where a member starts: its parameters before the first update."""

from __future__ import annotations

import torch
from torch import Tensor

from models.initial import Leak
from models.network import Network
from study.plan import Member
from study.seeds import stream
from study.training.sparsity import lacking


def first_parameters(network: Network, member: Member) -> Tensor:
    """All parameters of one member, in the order of the network's shapes: ``[P]``, float64 on the CPU.

    They are a function of the member's seed and hyperparameters alone; what its recurrent matrix lacks is zero.
    """
    h = member.hyperparameters
    weights = network.init(
        stream(member.seed, "init"),
        init=h.init,
        init_scale=h.init_scale,
        input_scale=h.input_scale,
        forget_bias=h.forget_bias,
        chrono_length=h.chrono_length if h.bias_init == "chrono" else None,
        leak=Leak(low=h.leak_low, high=h.leak_high, share=h.leaky_share),
    )
    if h.connectivity < 1:
        weights["recurrent"].masked_fill_(lacking(member, network.n_hidden), 0)
    return torch.cat([weights[name].flatten() for name in network.shapes()])
