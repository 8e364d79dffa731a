"""A study of real data: what it trains, measures and exports, and which ones are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from study.errors import UserError
from study.exported import DATA, write_export
from study.outcome import Outcome, Status, TrialKey
from study.plan import Hyperparameters, Member, TaskPlan
from study.record import TrialRecord
from study.session import Session
from study.settings import read_settings
from study.study_file import parse_spec
from study.tracking.server import WEIGHTS
from study.training.bracket import Bracket
from study.training.measure import yardstick
from study.training.stack import Stack
from study_tests.context_book import TRAINING, means, plan
from tasks_tests.data_files import write_letters, write_rolls


def tasks_of(folder: Path) -> dict[str, TaskPlan]:
    return {
        "digits": TaskPlan(name="digits"),
        "text": TaskPlan(name="text", parameters={"path": str(write_letters(folder))}),
        "piano_rolls": TaskPlan(name="piano_rolls", parameters={"path": str(write_rolls(folder))}),
    }


@pytest.mark.parametrize("batches", ["shared", "own"])
@pytest.mark.parametrize("name", ["digits", "text", "piano_rolls"])
def test_a_stack_trains_on_data_and_leaves_with_its_losses(tmp_path: Path, name: str, batches: str) -> None:
    training = replace(TRAINING, batches=batches, ladder=(1, 4, 10))  # type: ignore[arg-type]
    if name == "digits":
        training = replace(training, shortest=64, longest=64, ladder=(1, 32, 64))
    bracket = Bracket(plan(tasks_of(tmp_path)[name], n_members=4, training=training, cell="lstm"))
    left: dict[int, Outcome] = {}
    while not bracket.done:
        progress = bracket.advance()
        left |= {one.number: one.outcome for one in progress.departures}
        if progress.n_updates == 2:
            names = {metric.name for metrics in progress.metrics.values() for metric in metrics}
            assert {"interim/objective", "interim/loss/0", f"interim/loss/{training.ladder[-1]}"} <= names
    assert sorted((one.status, one.n_updates) for one in left.values()) == [
        *[(Status.COMPLETE, 3)] * 2,
        *[(Status.PRUNED, 2)] * 2,
    ]
    for outcome in left.values():
        assert [rung.length for rung in outcome.rungs] == [0, *training.ladder]
        constant, *_, full = means(outcome.rungs)
        assert outcome.value == outcome.skill == pytest.approx(max(0.0, 1 - full / constant))
        assert outcome.best_rung == outcome.rungs[-1]
        assert outcome.error_flow
        assert Outcome.from_json(outcome.to_json()) == outcome
    best = min(left.values(), key=lambda one: one.order)
    assert best.confirmed is not None
    assert best.confirmed.loss is not None
    assert best.confirmed.length == training.ladder[-1]


def test_the_probe_looks_at_single_answers_with_the_longest_training_length_before_them(tmp_path: Path) -> None:
    for name, (length, n) in {"digits": (64, 32), "text": (40, 32), "piano_rolls": (8, 1)}.items():
        training = replace(TRAINING, longest=64 if name == "digits" else 40)
        batch = yardstick(plan(tasks_of(tmp_path)[name], training=training)).probe_batch(32)
        # The longest held-out piece has nine frames, of which one is asked with the eight before it.
        assert batch.n_read == 1
        assert batch.inputs.shape[:2] == (length, n)


def test_an_exported_network_is_measured_again_on_the_test_part(tmp_path: Path) -> None:
    text = {"name": "text", "path": str(write_letters(tmp_path))}
    settings = [f"task={text}", "training.lengths=10", "ladder=[1, 10]", "n_hidden=5"]
    spec = parse_spec(DIGITS, settings)
    key = TrialKey(study=spec.name, model="lstm", number=0)
    record = TrialRecord(key=key, parameters={}, seed=3, status=Status.RUNNING, outcome=None, run_id=None)
    spec = spec.pinned(record)
    member = Member(number=0, hyperparameters=Hyperparameters(), seed=3)
    whole = spec.plan("cpu")
    stack = Stack(plan(whole.task, training=whole.training, seed=whole.seed, cell="lstm", members=(member,)))

    def put(folder: Path) -> None:
        save_file(stack.member_weights(0), folder / WEIGHTS)

    write_export(tmp_path / "export", spec, {DATA: spec.task.check_data()}, put)
    session = Session(read_settings(tmp_path / "home"))
    (expected,) = stack.evaluate("confirmed/0", 1000, [0])
    # All of the test part is asked whatever the purpose; only the order, and so the rounding of sums, differs.
    again = session.evaluate(tmp_path / "export", n_sequences=1000, draw=0)
    assert means(again) == pytest.approx(means(expected), rel=1e-6)
    with Path(text["path"]).open("a") as file:
        file.write("and more")
    with pytest.raises(
        UserError, match=r"the data must stay as .*export was trained on, but task text reads other files"
    ):
        session.evaluate(tmp_path / "export", n_sequences=1000, draw=0)
    Path(text["path"]).unlink()
    with pytest.raises(UserError, match=r"letters\.txt cannot: No such file"):
        session.evaluate(tmp_path / "export", n_sequences=1000, draw=0)


DIGITS = """
name: pixels
task: {name: digits, order: permuted}
ladder: [1, 8, 64]
training: {lengths: 64}
models: {lstm: {cell: lstm}}
"""


def test_a_study_of_digits_is_accepted_and_planned() -> None:
    plan = parse_spec(DIGITS).plan("cpu")
    assert plan.task == TaskPlan(name="digits", parameters={"order": "permuted"})
    assert (plan.training.shortest, plan.training.longest, plan.training.ladder) == (64, 64, (1, 8, 64))


@pytest.mark.parametrize(
    ("setting", "saying"),
    [
        ("training.lengths=[10, 64]", "lengths of task digits must be 64 or more, but got 10"),
        ("training.lengths=[64, 100]", "lengths of task digits must be 64 or less, but got 100"),
        ("ladder=[8, 65]", "lengths of the ladder of task digits must be 64 or less, but got 65"),
        ("ladder=[8, 32]", "ladder must reach the shortest training length 64, but it ends at 32"),
        ("task.order=columns", "order must be one of rows, permuted, but got order='columns'"),
        ("task={name: text}", r"task text takes the parameters path \(must be given\), but got none"),
        ("task={name: digit}", "unknown task 'digit'; did you mean 'digits'?"),
    ],
)
def test_a_study_of_data_is_refused_when_it_makes_no_sense(setting: str, saying: str) -> None:
    with pytest.raises(UserError, match=saying):
        parse_spec(DIGITS, [setting])


@pytest.mark.parametrize(
    ("task", "saying"),
    [
        ("{name: text, path: letters.txt}", "path must be absolute"),
        ("{name: text, path: /nowhere/letters.txt}", "/nowhere/letters.txt cannot: No such file or directory"),
        ("{name: piano_rolls, path: /dev/null}", "/dev/null cannot be read as one"),
    ],
)
def test_launch_refuses_data_that_is_not_there_before_anything_is_created(
    tmp_path: Path, task: str, saying: str
) -> None:
    session = Session(read_settings(tmp_path / "home"))
    # The study file alone makes sense: studies whose data is gone can still be listed and queried.
    spec = parse_spec(DIGITS, [f"task={task}"])
    with pytest.raises(UserError, match=saying) as refusal:
        session.launch(spec)
    assert refusal.value.exit_code == 2
    assert "\n" not in str(refusal.value)
    assert not list((tmp_path / "home").iterdir())
