"""Study files: what survives being written and read, what follows from them, and what is refused."""

from __future__ import annotations

import pytest

from study.errors import UserError
from study.hyperparameter import HYPERPARAMETERS, default_domain
from study.plan import Choices, Interval
from study.section import ChoicesSpec
from study.spec import Spec
from study.study_file import dump_spec, load_spec, parse_spec, presets
from study_tests.spec_book import TEXT
from tasks import TASKS, Problem


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


@pytest.mark.parametrize("domain", ["{low: 0, high: 4}", "{choices: [0.0, 2.0]}"])
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
        (
            "space.dropout=fast",
            r"space.dropout: fast dropout needs .*, or a value in the model's own space, but the cell is lstm",
        ),
        (
            "space.omega_weight={low: 0.5, high: 4}",
            r"space.omega_weight: a weight above 0 needs .* but the cell is lstm",
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


def test_specs_are_equal_whatever_the_order_of_keys() -> None:
    spec = parse_spec(TEXT)
    assert Spec.model_validate(dict(reversed(spec.model_dump(mode="json").items()))) == spec
