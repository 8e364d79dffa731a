"""Study files: what survives being written and read, what follows from them, and a trial pinned as a study."""

from __future__ import annotations

import pytest

from models import CELLS, FAST_CELLS
from study.hyperparameter import HYPERPARAMETERS, default_domain
from study.plan import Choices, Interval
from study.spec import Spec
from study.study_file import dump_spec, load_spec, parse_spec, presets

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


@pytest.mark.parametrize("preset", presets())
def test_spec_survives_its_text(preset: str) -> None:
    spec = load_spec(preset)
    assert parse_spec(dump_spec(spec)) == spec


def test_settings_reach_every_depth_and_values_keep_their_kind() -> None:
    spec = parse_spec(
        TEXT, ["models.lstm.space.forget_bias=2", "training.lengths=[15, 30]", "device=cpu"], name="other"
    )
    assert spec.name == "other"
    assert spec.models["lstm"].space == {"forget_bias": 2}
    assert spec.training.lengths == [15, 30]
    assert parse_spec(dump_spec(spec)) == spec


def test_plan_prefers_the_models_domain_then_the_studys_then_the_default() -> None:
    plan = parse_spec(TEXT).plan("cpu")
    tanh, lstm = plan.model("tanh"), plan.model("lstm")
    assert (tanh.n_hidden, lstm.n_hidden) == (10, 50)
    assert tanh.space["learning_rate"] == 0.5
    assert lstm.space["learning_rate"] == Interval(low=0.001, high=0.1, log=True)
    assert lstm.space["init"] == HYPERPARAMETERS["init"].default
    assert list(lstm.space) == list(HYPERPARAMETERS)


def test_plan_leaves_fast_dropout_out_where_a_cell_has_none() -> None:
    plan = parse_spec(TEXT).plan("cpu")
    assert plan.model("tanh").space["dropout"] == Choices(values=("dropout", "fast"))
    assert plan.model("lstm").space["dropout"] == "dropout"


@pytest.mark.parametrize("cell", CELLS)
def test_default_domains_are_valid_for_every_cell(cell: str) -> None:
    for name, hyperparameter in HYPERPARAMETERS.items():
        domain = default_domain(name, cell)
        hyperparameter.check(name, domain)
        if name == "dropout" and isinstance(domain, Choices):
            assert ("fast" in domain.values) == (cell in FAST_CELLS)


def test_a_pinned_trial_is_a_study_of_one_point() -> None:
    spec = parse_spec(TEXT)
    parameters = {
        name: domain.values[0]
        if isinstance(domain, Choices)
        else domain.low
        if isinstance(domain, Interval)
        else domain
        for name, domain in spec.plan("cpu").model("lstm").space.items()
    } | {"learning_rate": 0.0123456789, "optimiser": "adam"}
    pinned = spec.pinned("lstm", parameters, 42, "small-lstm-3")
    plan = parse_spec(dump_spec(pinned)).plan("cpu")
    assert [model.name for model in plan.models] == ["lstm"]
    assert plan.models[0].space == parameters
    assert plan.models[0].member_seed == 42
    assert (plan.search.n_trials, plan.search.stack_size) == (1, 1)
    assert plan.training == spec.plan("cpu").training


def test_specs_are_equal_whatever_the_order_of_keys() -> None:
    spec = parse_spec(TEXT)
    assert Spec.model_validate(dict(reversed(spec.model_dump(mode="json").items()))) == spec
