"""Which hyperparameters apply to which networks, and that their defaults are valid."""

from __future__ import annotations

import pytest

from models import CELLS, FAST_CELLS
from study.hyperparameter import HYPERPARAMETERS, default_domain
from study.plan import Choices, Hyperparameters, Interval
from study_tests.spec_book import active


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_hyperparameters_of_gates_apply_by_the_way_in_which_biases_start(cell: str) -> None:
    names = {"bias_init", "forget_bias", "chrono_length"}
    assert active(cell, {"bias_init": "constant"}) & names == {"bias_init", "forget_bias"}
    assert active(cell, {"bias_init": "chrono"}) & names == {"bias_init", "chrono_length"}
    assert not active("elman_tanh", {}) & names


def test_hyperparameters_of_omega_apply_to_simple_recurrent_networks_without_moments() -> None:
    names = {"omega_weight", "omega_form"}
    assert active("elman_logistic", {"omega_weight": 2.0, "dropout": "dropout"}) & names == names
    assert active("elman_logistic", {"omega_weight": 0.0}) & names == {"omega_weight"}
    assert not active("elman_logistic", {"omega_weight": 2.0, "dropout": "fast"}) & names
    assert not active("gru", {"omega_weight": 2.0}) & names
    # A chain has many matrices, not one.
    assert not active("untied_tanh", {"omega_weight": 2.0}) & names


def test_hyperparameters_of_recurrent_weights_do_not_apply_where_there_are_none() -> None:
    names = {"init", "init_scale", "p_drop_input", "p_drop_recurrent"}
    assert active("lstm_1997", {"dropout": "dropout"}) & names == names
    assert active("orthogonal_tanh", {"dropout": "dropout"}) & names == {"p_drop_input", "p_drop_recurrent"}
    assert active("min_gru", {"dropout": "dropout"}) & names == {"p_drop_input"}


def test_hyperparameters_of_dropout_apply_by_its_kind() -> None:
    names = {"p_drop_output", "dropout_masks", "fast_readout"}
    assert active("min_gru", {"dropout": "dropout"}) & names == {"p_drop_output", "dropout_masks"}
    assert active("elman_tanh", {"dropout": "fast"}) & names == {"p_drop_output", "fast_readout"}
    assert not active("elman_tanh", {"dropout": "none"}) & names


def test_hyperparameters_of_leaks_apply_to_leaky_cells_alone() -> None:
    names = {"leaky_share", "leak_low", "leak_high"}
    assert {cell for cell in CELLS if active(cell, {}) & names} == {"leaky_tanh", "leaky_logistic", "leaky_rectifier"}
    assert active("leaky_tanh", {}) >= names


def test_connectivity_applies_to_the_state_space_model_alone() -> None:
    assert [cell for cell in CELLS if "connectivity" in active(cell, {})] == ["state_space"]


def test_hyperparameters_of_the_update_rule_apply_where_they_are_read() -> None:
    assert "clip_fallback" in active("lstm", {"clip_norm": 1.0})
    assert "clip_fallback" not in active("lstm", {"clip_norm": float("inf")})
    assert active("lstm", {"optimiser": "vario_eta"}) & {"momentum", "square_decay"} == {"square_decay"}


@pytest.mark.parametrize("cell", CELLS)
def test_default_domains_are_valid_for_every_cell(cell: str) -> None:
    for name, hyperparameter in HYPERPARAMETERS.items():
        domain = default_domain(name, cell)
        hyperparameter.check(name, domain)
        if name == "dropout" and isinstance(domain, Choices):
            assert ("fast" in domain.values) == (cell in FAST_CELLS)


def test_what_a_trial_leaves_out_is_what_a_search_would_have_fixed_it_at() -> None:
    for name, hyperparameter in HYPERPARAMETERS.items():
        if not isinstance(hyperparameter.default, Interval | Choices):
            assert getattr(Hyperparameters(), name) == hyperparameter.default, name
