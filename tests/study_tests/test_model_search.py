"""The search of a model: asks that do not depend on crashes, outcomes that stay, on every storage."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from study.errors import LonglagError, UserError
from study.outcome import Outcome, Status, failed_outcome
from study.plan import Choices, Domain, Interval, ModelPlan, SearchPlan
from study.record import TrialRecord
from study.search import storage as storage_module
from study.search.model_search import ModelSearch
from study.search.storage import open_storage, persist

SPACE: dict[str, Domain] = {
    "init": Choices(values=("orthogonal", "identity")),
    "init_scale": Interval(low=0.5, high=2.0, log=True),
    "input_scale": 1.0,
    "bias_init": "constant",
    "forget_bias": Interval(low=0.0, high=5.0),
    "optimiser": Choices(values=("sgd", "nesterov", "adam")),
    "learning_rate": Interval(low=1e-4, high=1.0, log=True),
    "momentum": Interval(low=0.5, high=0.99),
    "square_decay": 0.99,
    "weight_decay": 0.0,
    "clip_norm": float("inf"),
    "bptt_steps": float("inf"),
    "dropout": Choices(values=("none", "dropout")),
    "p_drop_input": Interval(low=0.0, high=0.5),
    "p_drop_recurrent": 0.1,
    "p_drop_output": 0.0,
    "dropout_masks": "step",
    "l1_states": 0.0,
    "omega_weight": 0.0,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'search.db'}"
    server: str = request.getfixturevalue("postgres_url")
    return server


def plan(sampler: str = "tpe", n_startup: int = 4) -> SearchPlan:
    return SearchPlan(sampler=sampler, n_trials=30, stack_size=4, look_back=1, n_startup=n_startup)  # type: ignore[arg-type]


def model(cell: str = "lstm", **space: Domain) -> ModelPlan:
    return ModelPlan(name="m", cell=cell, n_hidden=5, space={**SPACE, **space})


def search(url: str, study: str, sampler: str = "tpe", **space: Domain) -> ModelSearch:
    return ModelSearch(open_storage(url), study, 7, plan(sampler), model(**space))


def outcome(record: TrialRecord) -> Outcome:
    """A stand-in for training: a smooth function of the parameters; every third trial is pruned."""
    rate = float(record.parameters["learning_rate"])
    return Outcome(
        status=Status.PRUNED if record.key.number % 3 == 2 else Status.COMPLETE,
        dependency_length=int(100 * rate**0.1),
        skill=0.25,
        diverged=False,
        n_updates=100 if record.key.number % 3 == 2 else 1000,
    )


def settle(one: ModelSearch, records: list[TrialRecord]) -> None:
    for record in records:
        one.save(record.key.number, outcome(record))
    for record in records:
        one.tell(record.key.number)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    label: str = request.node.name
    return label.replace("[", "-").replace("]", "")


def test_ask_is_the_same_when_the_search_is_opened_anew_at_every_step(url: str, name: str) -> None:
    steady = search(url, f"{name}-steady")
    for _ in range(4):
        settle(steady, [steady.ask() for _ in range(4)])
    for _ in range(4):
        records = [search(url, f"{name}-broken").ask() for _ in range(4)]
        for record in records:
            search(url, f"{name}-broken").save(record.key.number, outcome(record))
        for record in records:
            search(url, f"{name}-broken").tell(record.key.number)
    found, expected = search(url, f"{name}-broken").records(), steady.records()
    assert [record.parameters for record in found] == [record.parameters for record in expected]
    assert [record.seed for record in found] == [record.seed for record in expected]
    assert [record.outcome for record in found] == [record.outcome for record in expected]


def test_ask_never_leaves_a_trial_without_its_parameters(url: str, name: str) -> None:
    one = search(url, name)
    record = one.ask()
    stored = optuna.load_study(storage=url, study_name=f"{name}/m").trials[record.key.number]
    assert stored.state is TrialState.RUNNING
    assert stored.user_attrs["longlag:parameters"] == record.parameters
    assert stored.params.items() <= record.parameters.items()


def test_ask_draws_only_what_applies(url: str, name: str) -> None:
    one = search(url, name)
    records = [one.ask() for _ in range(16)]
    for record in records:
        chosen = record.parameters
        assert ("momentum" in chosen) == (chosen["optimiser"] in {"nesterov", "adam"})
        assert ("square_decay" in chosen) == (chosen["optimiser"] == "adam")
        assert ("p_drop_input" in chosen) == (chosen["dropout"] == "dropout")
        assert chosen["clip_norm"] == float("inf")
    assert {record.parameters["optimiser"] for record in records} == {"sgd", "nesterov", "adam"}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_ask_draws_whole_numbers_of_steps(url: str, name: str, sampler: str) -> None:
    one = search(url, name, sampler, bptt_steps=Interval(low=2, high=40, log=True))
    for _ in range(3):
        settle(one, [one.ask() for _ in range(4)])
    steps = [record.parameters["bptt_steps"] for record in one.records()]
    assert all(isinstance(drawn, int) and 2 <= drawn <= 40 for drawn in steps)
    assert len(set(steps)) > 4


def test_ask_searches_all_kinds_of_dropout_in_one_space(url: str, name: str) -> None:
    rates = dict.fromkeys(("p_drop_input", "p_drop_recurrent", "p_drop_output"), Interval(low=0.0, high=0.5))
    space: dict[str, Domain] = {
        "dropout": Choices(values=("none", "dropout", "fast")),
        "dropout_masks": Choices(values=("step", "sequence")),
        "fast_readout": Choices(values=("mean", "moments")),
    }
    one = search(url, name, "random", **space, **rates)
    asked = [one.ask().parameters for _ in range(40)]
    for chosen in asked:
        drops = chosen["dropout"] != "none"
        assert all((rate in chosen) == drops for rate in rates)
        assert ("dropout_masks" in chosen) == (chosen["dropout"] == "dropout")
        assert ("fast_readout" in chosen) == (chosen["dropout"] == "fast")
    kinds = {(chosen["dropout"], chosen.get("dropout_masks"), chosen.get("fast_readout")) for chosen in asked}
    assert len(kinds) == 5


def test_ask_gives_distinct_points_also_past_the_start_up_and_in_batches(url: str, name: str) -> None:
    one = search(url, name)
    for _ in range(3):
        settle(one, [one.ask() for _ in range(8)])
    points = [tuple(sorted(record.parameters.items())) for record in one.records()]
    assert len(set(points)) == len(points) == 24


def fixed(**choices: Domain) -> dict[str, Domain]:
    plain: dict[str, Domain] = {"init_scale": 1.0, "forget_bias": 1.0, "momentum": 0.9, "p_drop_input": 0.1}
    return {**plain, "learning_rate": 0.1, "optimiser": "sgd", "dropout": "none", "init": "identity", **choices}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_ask_exhausts_a_finite_space_before_it_repeats(url: str, name: str, sampler: str) -> None:
    rates = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    one = search(url, name, sampler, **fixed(learning_rate=Choices(values=rates)))
    for _ in range(2):
        settle(one, [one.ask() for _ in range(3)])
    assert sorted(float(record.parameters["learning_rate"]) for record in one.records()) == list(rates)
    settle(one, [one.ask()])
    assert len(one.records()) == 7


def test_ask_walks_a_grid_in_order_and_repeats_it_with_other_seeds(url: str, name: str) -> None:
    space = fixed(learning_rate=Choices(values=(0.1, 0.2)), init=Choices(values=("identity", "sparse")))
    one = search(url, name, "grid", **space)
    records = [one.ask() for _ in range(8)]
    walked = [(record.parameters["init"], record.parameters["learning_rate"]) for record in records]
    assert walked == [("identity", 0.1), ("identity", 0.2), ("sparse", 0.1), ("sparse", 0.2)] * 2
    assert len({record.seed for record in records}) == 8


def test_tell_settles_every_kind_of_outcome_and_is_idempotent(url: str, name: str) -> None:
    one = search(url, name)
    done, pruned, failed = (one.ask().key.number for _ in range(3))
    good = Outcome(status=Status.COMPLETE, dependency_length=40, skill=0.5, diverged=True, n_updates=10)
    poor = Outcome(status=Status.PRUNED, dependency_length=8, skill=0.25, diverged=False, n_updates=5)
    for number, ended in ((done, good), (pruned, poor), (failed, failed_outcome("Traceback ..."))):
        one.save(number, ended)
        one.tell(number)
        search(url, name).tell(number)
    trials = optuna.load_study(storage=url, study_name=f"{name}/m").trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].value == 40.5
    assert trials[1].intermediate_values == {5: 8.25}
    records = one.records()
    assert [record.status for record in records] == [Status.COMPLETE, Status.PRUNED, Status.FAILED]
    assert records[0].outcome == good
    assert records[2].outcome is not None
    assert records[2].outcome.reason == "Traceback ..."


def test_release_leaves_nothing_running_and_the_next_owner_adopts(url: str, name: str) -> None:
    one = search(url, name)
    first, second = one.ask(), one.ask()
    one.save(first.key.number, outcome(first))
    one.release()
    assert [record.status for record in one.records()] == [Status.WAITING, Status.WAITING]
    again = search(url, name)
    assert [record.status for record in again.records()] == [Status.RUNNING, Status.RUNNING]
    assert again.records()[0].outcome == outcome(first)
    assert again.ask().key.number == second.key.number + 1


def test_attached_runs_are_read_back_and_kept(url: str, name: str) -> None:
    one = search(url, name)
    first, second = one.ask().key.number, one.ask().key.number
    one.attach_runs({first: "abc123"})
    one.attach_runs({second: "def456"})
    assert [record.run_id for record in search(url, name).records()] == ["abc123", "def456"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_ask_writes_a_trial_once_when_an_answer_is_lost(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    from sqlalchemy.exc import OperationalError

    one = search(url, name)
    one.ask()
    real, lost = optuna.Study.add_trial, [True]

    def losing(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        answered = when == "after" or not lost
        if answered:
            real(study, trial)
        if study.study_name.endswith("/m") and lost:
            lost.clear()
            raise OperationalError("INSERT", {}, Exception("the answer was lost"))

    monkeypatch.setattr(optuna.Study, "add_trial", losing)
    monkeypatch.setattr(storage_module.time, "sleep", lambda seconds: None)
    record = one.ask()
    assert not lost
    assert [stored.key for stored in search(url, name).records()] == [one.records()[0].key, record.key]


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "postgresql+psycopg://someone:secret@127.0.0.1:9/none",
        "mysql+nodriver://x/y",
        "sqlite:////proc/none/search.db",
    ],
)
def test_open_storage_refuses_in_one_sentence_without_the_password(bad: str) -> None:
    with pytest.raises(UserError) as caught:
        open_storage(bad)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_open_storage_waits_while_another_process_creates_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    in_the_way = [
        IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed: alembic_version.version_num")),
        OperationalError("CREATE TABLE", {}, Exception("table studies already exists")),
    ]
    real = storage_module.RDBStorage

    def contended(*args: object, **options: object) -> BaseStorage:
        if in_the_way:
            raise in_the_way.pop()
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage_module, "RDBStorage", contended)
    monkeypatch.setattr(storage_module, "CREATION_PAUSES_S", (0.0, 0.0))
    assert open_storage(f"sqlite:///{tmp_path / 'search.db'}").get_all_studies() == []


def test_persist_rides_out_an_outage_and_gives_up_after_its_patience() -> None:
    from sqlalchemy.exc import OperationalError

    failures = [OperationalError("SELECT 1", {}, Exception("gone")) for _ in range(3)]

    def flaky() -> str:
        if failures:
            raise failures.pop()
        return "back"

    assert persist(flaky, pause_s=0.0) == "back"

    def dead() -> str:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    with pytest.raises(LonglagError, match="has not answered for 0 s: gone"):
        persist(dead, patience_s=0.0, pause_s=0.0)
