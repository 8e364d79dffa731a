"""What remembers: recurrent cells, their initialisers, and whole networks of them, stacked."""

from __future__ import annotations

from models.activation import ACTIVATIONS
from models.cell import Cell
from models.elman import Elman
from models.fast_elman import FastElman
from models.gru import Gru
from models.leaky import LeakyElman
from models.lstm import Lstm
from models.lstm_1997 import Lstm1997
from models.min_gru import MinGru
from models.orthogonal import Orthogonal
from models.state_space import StateSpace
from models.untied import UntiedElman

CELLS: dict[str, Cell] = {
    "elman_tanh": Elman(ACTIVATIONS["tanh"]),
    "elman_logistic": Elman(ACTIVATIONS["logistic"]),
    "elman_rectifier": Elman(ACTIVATIONS["rectifier"]),
    "untied_tanh": UntiedElman(ACTIVATIONS["tanh"]),
    "untied_logistic": UntiedElman(ACTIVATIONS["logistic"]),
    "untied_rectifier": UntiedElman(ACTIVATIONS["rectifier"]),
    "orthogonal_tanh": Orthogonal(Elman(ACTIVATIONS["tanh"])),
    "leaky_tanh": LeakyElman(ACTIVATIONS["tanh"]),
    "leaky_logistic": LeakyElman(ACTIVATIONS["logistic"]),
    "leaky_rectifier": LeakyElman(ACTIVATIONS["rectifier"]),
    "state_space": StateSpace(ACTIVATIONS["tanh"]),
    "gru": Gru(),
    "lstm": Lstm(),
    "lstm_1997": Lstm1997(truncated=False),
    "lstm_1997_truncated": Lstm1997(truncated=True),
    "min_gru": MinGru(),
}
"""Every cell by the name that a study file uses."""

FAST_CELLS: dict[str, Cell] = {
    "elman_tanh": FastElman(ACTIVATIONS["tanh"]),
    "elman_logistic": FastElman(ACTIVATIONS["logistic"]),
    "elman_rectifier": FastElman(ACTIVATIONS["rectifier"]),
}
"""The cells that can propagate moments through dropout (``dropout: fast``), by the same names."""
