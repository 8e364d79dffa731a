"""What tests of study files share: a file, and which hyperparameters apply after some are chosen."""

from __future__ import annotations

from study.hyperparameter import HYPERPARAMETERS
from study.plan import Hyperparameters, Parameter

TEXT = """
name: small
task: {name: latch}
ladder: [20, 40]
models:
  tanh: {cell: elman_tanh, n_hidden: 10, space: {learning_rate: 0.5}}
  lstm: {cell: lstm}
space:
  learning_rate: {low: 0.001, high: 0.1, log: true}
  dropout: {choices: [dropout, fast]}
  clip_norm: .inf
"""


def active(cell: str, chosen: dict[str, Parameter]) -> set[str]:
    """What applies after these choices, which are made in the order of the registry."""
    made: dict[str, Parameter] = {}
    for name, hyperparameter in HYPERPARAMETERS.items():
        if hyperparameter.applies(cell, made):
            made[name] = chosen.get(name, getattr(Hyperparameters(), name))
    return set(made)
