"""Study files: what survives being written and read, what follows from them, and a trial pinned as a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from models import CELLS, FAST_CELLS
from study.errors import UserError
from study.grid import grid_points
from study.hyperparameter import HYPERPARAMETERS, default_domain
from study.outcome import Status, TrialKey
from study.plan import Choices, Hyperparameters, Interval, Parameter
from study.record import TrialRecord
from study.section import ChoicesSpec
from study.spec import Spec
from study.study_file import dump_spec, load_spec, parse_spec, presets
from tasks import TASKS, Problem

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


def test_presets_compare_the_default_search_and_papers_settings_in_one_budget() -> None:
    searched, fixed = load_spec("default_search").plan("cpu"), load_spec("paper_settings").plan("cpu")
    assert [(one.name, one.cell, one.n_hidden) for one in searched.models] == [
        (one.name, one.cell, one.n_hidden) for one in fixed.models
    ]
    for model in searched.models:
        assert model.space == {name: default_domain(name, model.cell) for name in HYPERPARAMETERS}
    for model in fixed.models:
        assert not [domain for domain in model.space.values() if isinstance(domain, Interval | Choices)]
    assert (searched.search.n_trials, searched.search.stack_size) == (fixed.search.n_trials, fixed.search.stack_size)
    demo = load_spec("demo").plan("cpu").training
    for training in (searched.training, fixed.training):
        assert (training.n_updates, training.batch_size, training.rungs, training.keep, training.ladder[-1]) == (
            demo.n_updates,
            demo.batch_size,
            demo.rungs,
            demo.keep,
            50,
        )


def test_settings_reach_every_depth_and_values_keep_their_kind() -> None:
    spec = parse_spec(
        TEXT, ["models.lstm.space.forget_bias=2", "training.lengths=[15, 30]", "device=cpu"], name="other"
    )
    assert spec.name == "other"
    assert spec.models["lstm"].space == {"forget_bias": 2}
    assert spec.training.lengths == [15, 30]
    assert parse_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "+1.e-3", ".1e-2", "0.001"])
def test_numbers_with_an_exponent_need_no_point(number: str) -> None:
    in_file = parse_spec(TEXT.replace("0.5", number)).models["tanh"].space["learning_rate"]
    space = parse_spec(TEXT, [f"space.momentum={number}", f"space.learning_rate={{choices: [{number}, 1e-2]}}"]).space
    assert in_file == space["momentum"] == 0.001
    assert space["learning_rate"] == ChoicesSpec(choices=[0.001, 0.01])


def test_counts_may_be_written_with_an_exponent() -> None:
    spec = parse_spec(TEXT, ["training.n_updates=2e4", "ladder=[2e1, 1e3]", "training.lengths=1e1", "seed=1e0"])
    assert spec == parse_spec(TEXT, ["training.n_updates=20000", "ladder=[20, 1000]", "training.lengths=10"])
    assert isinstance(spec.training.n_updates, int)


def test_merge_keys_take_over_what_stands_elsewhere_and_give_way_to_keys_beside_them() -> None:
    merged = """
models:
  first: &first {cell: lstm, n_hidden: 10}
  third: {<<: &second {<<: *first, n_hidden: 20}, seed: 3}
  second: *second
  fourth: {<<: [{seed: 5}, *first], cell: gru}
"""
    models = parse_spec(TEXT[: TEXT.index("models:")] + merged).models
    assert {name: (model.cell, model.n_hidden, model.seed) for name, model in models.items()} == {
        "first": ("lstm", 10, None),
        "third": ("lstm", 20, 3),
        "second": ("lstm", 20, None),
        "fourth": ("gru", 10, 5),
    }


def test_a_name_that_looks_like_a_number_stays_a_word() -> None:
    spec = parse_spec(TEXT, name="1e5")
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


def test_plan_leaves_a_chrono_initialisation_out_where_no_gate_remembers() -> None:
    plan = parse_spec(TEXT, ["space.bias_init={choices: [constant, chrono]}"]).plan("cpu")
    assert plan.model("tanh").space["bias_init"] == "constant"
    assert plan.model("lstm").space["bias_init"] == Choices(values=("constant", "chrono"))


@pytest.mark.parametrize("domain", ["4.0", "{low: 0.5, high: 4}", "{choices: [0.0, 2.0]}"])
def test_plan_leaves_omega_out_where_errors_flow_by_gates(domain: str) -> None:
    plan = parse_spec(TEXT, [f"space.omega_weight={domain}"]).plan("cpu")
    assert plan.model("lstm").space["omega_weight"] == 0.0
    assert plan.model("tanh").space["omega_weight"] != 0.0


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "models.tanh.space.bias_init=chrono",
            r"models.tanh.space.bias_init: chrono needs one of the cells gru, .*, but the cell is elman_tanh",
        ),
        (
            "models.lstm.space.dropout={choices: [none, fast]}",
            r"models.lstm.space.dropout: fast dropout needs one of the cells elman_tanh, .*, but the cell is lstm",
        ),
        (
            "models={small: {cell: min_gru, space: {clip_fallback: shrink_recurrent}}}",
            r"models.small.space.clip_fallback: shrink_recurrent needs one of the cells .*, but the cell is min_gru",
        ),
        (
            "models.lstm.space.fast_readout={choices: [mean, moments]}",
            r"models.lstm.space.fast_readout: moments needs one of the cells elman_tanh, .*, but the cell is lstm",
        ),
        ("space.p_drop_output=1", r"space.p_drop_output must be a number in \[0, 1\), but got 1"),
        ("space.dropout_masks=sequences", r"space.dropout_masks: unknown value 'sequences'; did you mean 'sequence'"),
        ("space.chrono_length=1.5", r"space.chrono_length must be a number in \[2, 1e\+06\], but got 1.5"),
        ("space.bptt_steps=0", r"space.bptt_steps must be a whole number in \[1, inf\], but got 0"),
        ("space.bptt_steps=none", r"space.bptt_steps must be a whole number in \[1, inf\], but got none"),
        ("space.bptt_steps={low: 2, high: 9.5}", r"space.bptt_steps must be a whole number in \[1, inf\], but got 9.5"),
        ("space.weight_decay=-0.1", r"space.weight_decay must be a number in \[0, 1000\], but got -0.1"),
        ("space.connectivity=0", r"space.connectivity must be a number in \(0, 1\], but got 0"),
        ("space.leak_high=1.5", r"space.leak_high must be a number in \[0, 1\], but got 1.5"),
        ("space.clip_fallback=shrink", r"space.clip_fallback: unknown value 'shrink'; did you mean 'shrink_recurrent'"),
        (
            "models.lstm.space.omega_weight={low: 0, high: 4}",
            r"models.lstm.space.omega_weight: a weight above 0 needs one of the cells elman_tanh, .* cell is lstm",
        ),
        ("models.lstm.space.omega_weight=4", r"a weight above 0 needs one of the cells"),
        ("space.omega_weight=-1", r"space.omega_weight must be a number in \[0, 1000\], but got -1"),
        (
            "models={deep: {cell: untied_tanh, n_hidden: 1000}}",
            r"models.deep: a chain must have 10000000 recurrent weights or fewer, "
            r"but 100 steps of 1000 units have 100000000",
        ),
        (
            "models.tanh={cell: untied_tanh, space: {omega_weight: 4}}",
            r"models.tanh.space.omega_weight: a weight above 0 needs one of the cells .*, but the cell is untied_tanh",
        ),
        ("space.init=smart_tan", r"space.init: unknown value 'smart_tan'; did you mean 'smart_tanh'"),
    ],
)
def test_spec_refuses_in_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_spec(TEXT, [setting])


def active(cell: str, chosen: dict[str, Parameter]) -> set[str]:
    """What applies after these choices, which are made in the order of the registry."""
    made: dict[str, Parameter] = {}
    for name, hyperparameter in HYPERPARAMETERS.items():
        if hyperparameter.applies(cell, made):
            made[name] = chosen.get(name, getattr(Hyperparameters(), name))
    return set(made)


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


@pytest.mark.parametrize("setting", ["space.fast_readout=moments", "space.fast_readout={choices: [mean, moments]}"])
def test_moments_are_refused_where_a_tasks_loss_is_not_known_on_average(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    class Plain(TASKS["latch"]):  # type: ignore[misc]
        expected_loss = Problem.expected_loss

    monkeypatch.setitem(TASKS, "plain", Plain)
    given = ["task.name=plain", "models={net: {cell: elman_tanh}}"]
    assert parse_spec(TEXT, given).plan("cpu").model("net").space["fast_readout"] == "mean"
    with pytest.raises(UserError, match="moments needs a task whose loss is known on average, but the task is plain"):
        parse_spec(TEXT, [*given, setting])


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


def test_specs_are_equal_whatever_the_order_of_keys() -> None:
    spec = parse_spec(TEXT)
    assert Spec.model_validate(dict(reversed(spec.model_dump(mode="json").items()))) == spec


GRID = """
name: replicates
task: {name: latch}
ladder: [20]
training: {lengths: 20}
search: {sampler: grid, n_trials: 6}
models: {tanh: {cell: elman_tanh}}
space:
  init: sparse
  init_scale: 1
  optimiser: {choices: [sgd, adam]}
  learning_rate: 0.1
  momentum: {choices: [0.5, 0.9]}
  dropout: none
  omega_weight: 0.0
"""


def test_a_grid_needs_no_value_of_what_has_no_effect_and_repeats_no_network() -> None:
    spec = parse_spec(GRID)
    points = grid_points("elman_tanh", spec.plan("cpu").model("tanh").space)
    # Gradient descent has no momentum, so the two that are named make one point of it.
    assert [(point["optimiser"], point.get("momentum")) for point in points] == [
        ("sgd", None),
        ("adam", 0.5),
        ("adam", 0.9),
    ]
    for point in points:
        assert set(point) == active("elman_tanh", point)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("space.momentum={low: 0.5, high: 0.9}", r"grid needs choices or fixed values, but momentum of the cell elman"),
        ("search.n_trials=4", r"n_trials must be a multiple of the 3 points of the grid of model tanh, but got 4"),
    ],
)
def test_a_grid_is_refused_in_a_sentence(setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_spec(GRID, [setting])


def test_an_interval_that_applies_nowhere_does_not_disturb_a_grid() -> None:
    spec = parse_spec(GRID, ["space.optimiser=sgd", "space.momentum={low: 0.5, high: 0.9}"])
    assert len(grid_points("elman_tanh", spec.plan("cpu").model("tanh").space)) == 1


def test_a_resolved_study_is_the_same_whatever_the_defaults_have_become(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = parse_spec(TEXT)
    kept = dump_spec(spec.resolved())
    assert parse_spec(kept).plan("cpu") == spec.plan("cpu")
    assert parse_spec(kept).resolved() == spec.resolved() == parse_spec(kept)
    changed = replace(HYPERPARAMETERS["input_scale"], default=0.125)
    monkeypatch.setitem(HYPERPARAMETERS, "input_scale", changed)
    assert spec.plan("cpu").model("lstm").space["input_scale"] == 0.125
    assert parse_spec(kept).plan("cpu").model("lstm").space["input_scale"] == 1.0
