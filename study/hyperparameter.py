"""Every hyperparameter by name: what it means, which values make sense, where it is searched, when it applies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

from models import CELLS, FAST_CELLS
from models.dropout import MASKS, Dropout
from models.initial import INITIALISERS
from models.state_space import StateSpace
from study.dimension import Chosen, Hyperparameter, bounds_or_values
from study.plan import Choices, Domain, Hyperparameters, Interval, Parameter
from study.training.omega import OMEGA_FORMS
from study.training.rule import CLIP_FALLBACKS, OPTIMISERS


def _dropped(cell: str, chosen: Chosen) -> bool:
    return chosen["dropout"] != Dropout.NONE


def _remembers_by_gate(cell: str) -> bool:
    return CELLS[cell].forget_gate is not None


def _has_recurrent_weights(cell: str) -> bool:
    """Whether an initialiser draws a recurrent matrix, which updates then change entry by entry."""
    return "recurrent" in CELLS[cell].shapes(1)


def _flows_by_matrix(cell: str) -> bool:
    """Whether errors flow back through one recurrent matrix and slopes alone, and updates change that matrix freely."""
    return CELLS[cell].slope_max is not None and len(CELLS[cell].shapes(1).get("recurrent", ())) == 2


def _leaks(cell: str, chosen: Chosen) -> bool:
    return "retention" in CELLS[cell].shapes(1)


HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "init": Hyperparameter(
        meaning="how weights are initialised; basic_tanh, smart_tanh and pascanu_sigmoid also say how far input and "
        "readout weights spread",
        default=Choices(values=("gaussian", "orthogonal", "identity", "sparse", "basic_tanh")),
        names=tuple(INITIALISERS),
        applies=lambda cell, chosen: _has_recurrent_weights(cell),
    ),
    "init_scale": Hyperparameter(
        meaning="factor of the initial recurrent weights",
        default=1.0,
        low=0,
        high=1e3,
        applies=lambda cell, chosen: _has_recurrent_weights(cell),
    ),
    "input_scale": Hyperparameter(
        meaning="factor of the initial input weights, whose standard deviation is 1 / sqrt(n_in) or what init says",
        default=1.0,
        low=0,
        high=1e3,
    ),
    "bias_init": Hyperparameter(
        meaning="whether forget gates start from one bias or from those of a chrono initialisation",
        default="constant",
        names=("constant", "chrono"),
        applies=lambda cell, chosen: _remembers_by_gate(cell),
    ),
    "forget_bias": Hyperparameter(
        meaning="initial bias of the gate that keeps what is remembered; in a GRU the update gate",
        default=Interval(low=0.0, high=5.0),
        low=-100,
        high=100,
        applies=lambda cell, chosen: _remembers_by_gate(cell) and chosen["bias_init"] == "constant",
    ),
    "chrono_length": Hyperparameter(
        meaning="longest memory, in steps, that a chrono initialisation spreads the forget gates over",
        default=100.0,
        low=2,
        high=1e6,
        applies=lambda cell, chosen: _remembers_by_gate(cell) and chosen["bias_init"] == "chrono",
    ),
    "leaky_share": Hyperparameter(
        meaning="share of the units that leak; the others keep nothing of their state",
        default=Interval(low=0.25, high=1.0),
        low=0,
        high=1,
        applies=_leaks,
    ),
    "leak_low": Hyperparameter(
        meaning="one end of the range from which each leaky unit's rate, its new value's share, is drawn and kept",
        default=0.02,
        low=0,
        high=1,
        applies=_leaks,
    ),
    "leak_high": Hyperparameter(
        meaning="the other end of the range of rates",
        default=0.2,
        low=0,
        high=1,
        applies=_leaks,
    ),
    "connectivity": Hyperparameter(
        meaning="share of a unit's incoming recurrent connections that exist; the others are zero, and remain so",
        default=Interval(low=0.1, high=1.0),
        low=0,
        high=1,
        open_low=True,
        applies=lambda cell, chosen: isinstance(CELLS[cell], StateSpace),
    ),
    "optimiser": Hyperparameter(
        meaning="update rule",
        default=Choices(values=("sgd", "nesterov", "rmsprop", "adam")),
        names=tuple(OPTIMISERS),
    ),
    "learning_rate": Hyperparameter(
        meaning="step size of the update rule",
        default=Interval(low=5e-4, high=0.1, log=True),
        low=0,
        high=1e3,
        open_low=True,
    ),
    "momentum": Hyperparameter(
        meaning="decay of the velocity; Adam's beta_1",
        default=Interval(low=0.5, high=0.99),
        low=0,
        high=1,
        open_high=True,
        applies=lambda cell, chosen: chosen["optimiser"] in {"heavy_ball", "nesterov", "adam"},
    ),
    "square_decay": Hyperparameter(
        meaning="decay of the running mean square or variance; Adam's beta_2",
        default=0.99,
        low=0,
        high=1,
        open_high=True,
        applies=lambda cell, chosen: chosen["optimiser"] in {"rmsprop", "adam", "vario_eta"},
    ),
    "weight_decay": Hyperparameter(
        meaning="factor of the weights, biases excepted, that is added to their clipped gradients",
        default=0.0,
        low=0,
        high=1e3,
    ),
    "clip_norm": Hyperparameter(
        meaning="largest gradient norm; longer gradients are scaled to it", default=1.0, low=0, open_low=True
    ),
    "clip_fallback": Hyperparameter(
        meaning="what stands for a gradient whose norm is not finite or above 1e10: itself, or 0.02 times the "
        "recurrent weights as in Pascanu et al. 2013",
        default="none",
        names=tuple(CLIP_FALLBACKS),
        applies=lambda cell, chosen: float(chosen["clip_norm"]) < math.inf,
    ),
    "bptt_steps": Hyperparameter(
        meaning="steps of the windows, counted from a sequence's end, in which errors flow back: truncated "
        "backpropagation through time; infinite where it is not truncated",
        default=math.inf,
        low=1,
        whole=True,
    ),
    "dropout": Hyperparameter(
        meaning="kind of dropout",
        # The sequences of tasks are drawn without end, and leave nothing to overfit.
        default=str(Dropout.NONE),
        names=tuple(map(str, Dropout)),
    ),
    "p_drop_input": Hyperparameter(
        meaning="probability of dropping an input",
        default=Interval(low=0.0, high=0.5),
        low=0,
        high=1,
        open_high=True,
        applies=_dropped,
    ),
    "p_drop_recurrent": Hyperparameter(
        meaning="probability of dropping a recurrent connection's unit",
        default=Interval(low=0.0, high=0.5),
        low=0,
        high=1,
        open_high=True,
        applies=lambda cell, chosen: bool(CELLS[cell].shapes(1)) and _dropped(cell, chosen),
    ),
    "p_drop_output": Hyperparameter(
        meaning="probability of dropping a hidden unit on its way to the outputs",
        default=0.0,
        low=0,
        high=1,
        open_high=True,
        applies=_dropped,
    ),
    "dropout_masks": Hyperparameter(
        meaning="how long a drawn mask holds: for one step, or for a whole sequence, the variational dropout of Gal & "
        "Ghahramani 2016, in which a symbol that is dropped is so wherever it stands",
        default="step",
        names=MASKS,
        applies=lambda cell, chosen: chosen["dropout"] == Dropout.DROPOUT,
    ),
    "fast_readout": Hyperparameter(
        meaning="what fast dropout's outputs are trained by: the loss of their means, or its average over their "
        "moments, as Wang & Manning 2013 have it",
        default="mean",
        names=("mean", "moments"),
        applies=lambda cell, chosen: chosen["dropout"] == Dropout.FAST,
    ),
    "l1_states": Hyperparameter(
        meaning="factor of the absolute hidden states, summed over units and steps and averaged over sequences, as a "
        "part of the loss (sparser gradients of Bengio et al. 2012)",
        default=0.0,
        low=0,
        high=1e3,
    ),
    "omega_weight": Hyperparameter(
        meaning="factor of the vanishing-gradient regulariser Omega of Pascanu et al. 2013, their alpha",
        default=Choices(values=(0.0, 1.0, 4.0)),
        low=0,
        high=1e3,
        applies=lambda cell, chosen: _flows_by_matrix(cell) and chosen["dropout"] != Dropout.FAST,
    ),
    "omega_form": Hyperparameter(
        meaning="how Omega compares errors one step apart: as equation 9 of its paper does or as its authors' program",
        default="pascanu2013_code",
        names=tuple(OMEGA_FORMS),
        applies=lambda cell, chosen: float(chosen.get("omega_weight", 0)) > 0,
    ),
}
"""In an order in which every condition only looks back."""


def misfits(name: str, cell: str, values: Sequence[Parameter]) -> dict[Parameter, str]:
    """What of these values of a hyperparameter makes no sense for a cell, and what each would need."""
    if name == "dropout" and cell not in FAST_CELLS:
        return {str(Dropout.FAST): f"fast dropout needs one of the cells {', '.join(FAST_CELLS)}"}
    if name == "fast_readout" and cell not in FAST_CELLS:
        return {"moments": f"moments needs one of the cells {', '.join(FAST_CELLS)}"}
    if name == "bias_init" and not _remembers_by_gate(cell):
        return {"chrono": f"chrono needs one of the cells {', '.join(filter(_remembers_by_gate, CELLS))}"}
    if name == "omega_weight" and not _flows_by_matrix(cell):
        need = f"a weight above 0 needs one of the cells {', '.join(filter(_flows_by_matrix, CELLS))}"
        return {value: need for value in values if value != 0}
    if name == "clip_fallback" and not _has_recurrent_weights(cell):
        cells = ", ".join(filter(_has_recurrent_weights, CELLS))
        return {"shrink_recurrent": f"shrink_recurrent needs one of the cells {cells}"}
    return {}


def default_domain(name: str, cell: str) -> Domain:
    """Where a hyperparameter is searched for a cell unless the study says otherwise."""
    return fit_domain(name, cell, HYPERPARAMETERS[name].default)


def fit_domain(name: str, cell: str, domain: Domain) -> Domain:
    """A domain that was meant for all cells, without what this one cannot do; raises ValueError if nothing is left."""
    values = bounds_or_values(domain)
    wrong = misfits(name, cell, values)
    left = tuple(value for value in values if value not in wrong)
    if left == values:
        return domain
    if not left:
        raise ValueError(
            f"space.{name}: {wrong[values[0]]}, or a value in the model's own space, but the cell is {cell}"
        )
    return Choices(values=left) if len(left) > 1 else left[0]


def fixed_space(space: Mapping[str, Domain], parameters: Chosen) -> dict[str, Parameter]:
    """A space in which only one point is left; what the point does not name has no effect on it, and is any value."""
    fixed: dict[str, Parameter] = {}
    for name, domain in space.items():
        if name in parameters:
            fixed[name] = parameters[name]
        elif isinstance(domain, Interval):
            fixed[name] = domain.low
        elif isinstance(domain, Choices):
            fixed[name] = domain.values[0]
        else:
            fixed[name] = domain
    return fixed


def hyperparameters(parameters: Chosen) -> Hyperparameters:
    """The record that training reads; what a trial leaves out, because it does not apply, takes its default."""
    known = {field.name for field in fields(Hyperparameters)}
    return Hyperparameters(**{name: value for name, value in parameters.items() if name in known})  # type: ignore[arg-type]


def applying(cell: str, values: Chosen) -> dict[str, Parameter]:
    """Those of a complete set of values that have any effect."""
    return {name: value for name, value in values.items() if HYPERPARAMETERS[name].applies(cell, values)}
