"""Studies that are made of a study: a pinned trial, replicates, and one with all defaults written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from study.grid import grid_points
from study.hyperparameter import HYPERPARAMETERS
from study.outcome import Status, TrialKey
from study.plan import Choices, Interval, Parameter
from study.record import TrialRecord
from study.spec import Spec
from study.study_file import dump_spec, parse_spec
from study_tests.spec_book import TEXT


def record_of(spec: Spec, model: str, parameters: Mapping[str, Parameter], number: int = 3) -> TrialRecord:
    key = TrialKey(study=spec.name, model=model, number=number)
    return TrialRecord(key=key, parameters=parameters, seed=42, status=Status.RUNNING, outcome=None, run_id=None)


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
    pinned = spec.pinned(record_of(spec, "lstm", parameters))
    assert pinned.name == "small-lstm-3"
    plan = parse_spec(dump_spec(pinned)).plan("cpu")
    assert [model.name for model in plan.models] == ["lstm"]
    assert plan.models[0].space == parameters
    assert plan.models[0].member_seed == 42
    assert (plan.search.n_trials, plan.search.stack_size) == (1, 1)
    assert plan.training == spec.plan("cpu").training


@pytest.mark.parametrize("n_characters", [58, 59, 64])
def test_a_pinned_trial_of_a_study_with_a_long_name_is_a_study_with_a_name_of_its_own(n_characters: int) -> None:
    spec = parse_spec(TEXT, name="n" * n_characters)
    names = [spec.pinned(record_of(spec, model, {}, number)).name for model in ("tanh", "lstm") for number in (3, 4)]
    assert len(set(names)) == 4
    assert names == [spec.pinned(record_of(spec, m, {}, n)).name for m in ("tanh", "lstm") for n in (3, 4)]
    # "-lstm-3" has seven characters, and 57 and these are 64.
    assert all(len(name) == 64 and name.startswith("n" * 55) for name in names)


def test_replicates_are_a_grid_of_one_point_for_each_chosen_model_on_data_of_its_own() -> None:
    spec = parse_spec(TEXT, ["halving.rungs=[10]", "models.lstm.seed=5"])
    plan = spec.plan("cpu")
    again = parse_spec(dump_spec(spec.replicated({"lstm": {"learning_rate": 0.03}}, 5, "again"))).plan("cpu")
    (model,) = again.models
    assert (again.name, model.name, model.member_seed) == ("again", "lstm", None)
    assert [point["learning_rate"] for point in grid_points("lstm", model.space)] == [0.03]
    assert (again.search.sampler, again.search.n_trials, again.search.stack_size) == ("grid", 5, 5)
    assert (again.training.batches, again.training.rungs) == ("own", ())
    assert again.training == replace(plan.training, batches="own", rungs=())
    assert again.seed != plan.seed


def test_a_resolved_study_is_the_same_whatever_the_defaults_have_become(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_spec(TEXT)
    kept = dump_spec(spec.resolved())
    assert parse_spec(kept).plan("cpu") == spec.plan("cpu")
    assert parse_spec(kept).resolved() == spec.resolved() == parse_spec(kept)
    changed = replace(HYPERPARAMETERS["input_scale"], default=0.125)
    monkeypatch.setitem(HYPERPARAMETERS, "input_scale", changed)
    assert spec.plan("cpu").model("lstm").space["input_scale"] == 0.125
    assert parse_spec(kept).plan("cpu").model("lstm").space["input_scale"] == 1.0
