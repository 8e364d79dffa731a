"""What every task in ``TASKS`` must hold, in each of its variants: what it samples, and when it tells the answer.

A new task is covered by its entry in ``TASKS``; variants are read off the constructor's signature. Where ``EARLIEST``
says where a task's answer begins, its guaranteed lag is confirmed by somebody else's count, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from tasks import TASKS, Task
from tasks_tests.task_book import closed_parameters, draw, every_task, lengths, of_each_stream_alone, oracle


def first_true(mask: Tensor) -> Tensor:
    return (mask.cumsum(0) == 0).sum(0)


def last_true(mask: Tensor) -> Tensor:
    return mask.shape[0] - 1 - first_true(mask.flip(0))


EARLIEST: dict[str, Callable[[Tensor], Tensor]] = {
    "temporal_order": lambda inputs: first_true(inputs < 2),
    "adding": lambda inputs: first_true(inputs[..., 1] == 1),
    "latch": lambda inputs: last_true((inputs[..., :6] != 0).any(-1)),
    "parity": lambda inputs: torch.zeros(inputs.shape[1], dtype=torch.int64),
    "multiplication": lambda inputs: first_true(inputs[..., 1] == 1),
    # Mean squares over sequences are 1 or 1.2 where the class is told, and 0.2 elsewhere.
    "two_sequence": lambda inputs: last_true(inputs.square().mean(1) > 0.6).expand(inputs.shape[1]),
    "indicator": lambda inputs: first_true(inputs[..., 0] == 1),
    "embedded_reber": lambda inputs: inputs.new_ones(inputs.shape[1]),
    "long_lag": lambda inputs: first_true(inputs < 2),
    "very_long_lag": lambda inputs: first_true(inputs < 2),
    "random_permutation": lambda inputs: first_true(inputs < 2),
    "memorisation": lambda inputs: inputs.new_zeros(inputs.shape[1]),
    "copy_delimiter": lambda inputs: inputs.new_zeros(inputs.shape[1]),
}
"""Last step from which on each sequence's inputs still determine its answer, read off the inputs: ``[B]``.

Where noise leaves the answer open, the last from which on they tell anything of it.
"""

ANSWERED: dict[str, Callable[[Tensor], Tensor]] = {
    # The step of the inner string's last symbol, which only ever stands there and in the very last place.
    "embedded_reber": lambda inputs: last_true(inputs == inputs.max()),
    # The go sign is the largest code.
    "memorisation": lambda inputs: first_true(inputs == inputs.max()),
    "copy_delimiter": lambda inputs: first_true(inputs == inputs.max()) + 1,
}
"""Step at which the answer that begins there is read, if that is not the last: ``[B]``."""


def earliest(task: Task, inputs: Tensor) -> Tensor:
    if task.name not in EARLIEST:
        pytest.skip(f"EARLIEST does not say where the answer of {task.name} begins: nobody else counts its lag")
    return EARLIEST[task.name](inputs)


def lags(task: Task, inputs: Tensor) -> Tensor:
    answered = ANSWERED.get(task.name, lambda inputs: inputs.new_tensor(len(inputs) - 1))(inputs)
    return answered - earliest(task, inputs)


@every_task
def test_task_bears_the_name_of_its_entry(task: Task) -> None:
    assert TASKS[task.name] is type(task)
    assert task.source


@every_task
def test_sample_has_the_shapes_and_types_of_a_batch(task: Task) -> None:
    for length in lengths(task):
        batch = draw(task, 7, length)
        if task.symbolic:
            assert batch.inputs.dtype == torch.int64
            assert batch.inputs.shape == (length, 7)
            assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < task.n_in
        else:
            assert batch.inputs.dtype == torch.float32
            assert batch.inputs.shape == (length, 7, task.n_in)
        if batch.targets.is_floating_point():
            assert batch.targets.dtype == torch.float32
            assert batch.targets.shape == (batch.n_read, 7, task.n_out)
        else:
            assert batch.targets.dtype == torch.int64
            assert batch.targets.shape == (batch.n_read, 7)
            assert 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < task.n_out


@every_task
def test_sample_uses_every_input_line(task: Task) -> None:
    inputs = draw(task, 200, 100).inputs
    if task.symbolic:
        assert set(inputs.flatten().tolist()) == set(range(task.n_in))
    else:
        assert (inputs != 0).flatten(0, 1).any(0).all()


@every_task
def test_sample_is_a_function_of_what_it_draws(task: Task) -> None:
    one, same, other = draw(task, 9, 30, seed=1), draw(task, 9, 30, seed=1), draw(task, 9, 30, seed=2)
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.inputs, other.inputs)


@every_task
def test_sample_for_several_streams_at_once_gives_each_what_it_gets_alone(task: Task) -> None:
    for length in lengths(task):
        of_each_stream_alone(task, length)


@every_task
def test_sample_leaves_what_it_gave_before_alone(task: Task) -> None:
    batch = draw(task, 9, 30, seed=1)
    inputs, targets = batch.inputs.clone(), batch.targets.clone()
    draw(task, 9, 30, seed=2)
    assert torch.equal(batch.inputs, inputs)
    assert torch.equal(batch.targets, targets)


@every_task
def test_sample_leaves_torchs_global_generator_alone(task: Task) -> None:
    before = torch.get_rng_state()
    draw(task, 9, 30)
    assert torch.equal(torch.get_rng_state(), before)


@every_task
def test_sample_raises_when_the_length_is_too_short(task: Task) -> None:
    least = task.shortest_length
    with pytest.raises(ValueError, match=f"^length >= {least} must hold, but got length={least - 1}$"):
        draw(task, 3, least - 1)


@pytest.mark.parametrize("name", TASKS)
def test_constructor_raises_when_a_parameter_is_bad(name: str) -> None:
    for parameter in closed_parameters(TASKS[name]):
        with pytest.raises(ValueError, match=f"^{parameter} must be one of .+, but got {parameter}='nonsense'$"):
            TASKS[name](**{parameter: "nonsense"})
    # A study file's unknown parameter is told from a bad value by this type.
    with pytest.raises(TypeError):
        TASKS[name](**{"nonsense": 1})


@every_task
def test_min_lag_is_never_undercut_and_attained(task: Task) -> None:
    # The rarest lag is that of one sequence in 1250, so that all 20 000 miss it with probability below e^-15.
    for length in lengths(task):
        least = length
        for seed in range(5):
            least = min(least, int(lags(task, draw(task, 4000, length, seed).inputs).min()))
            if least <= task.min_lag(length):
                break
        assert least == task.min_lag(length), length


@every_task
def test_min_lag_is_positive_and_grows_with_the_length(task: Task) -> None:
    least = [task.min_lag(length) for length in range(task.shortest_length, 1200)]
    assert least[0] >= 1
    assert all(a <= b for a, b in itertools.pairwise(least))
    assert least[-1] > least[0]


@every_task
def test_oracle_needs_the_inputs_from_the_earliest_on_and_no_other(task: Task) -> None:
    inputs = draw(task, 400, 50).inputs
    starts = earliest(task, inputs)
    generator = Generator().manual_seed(1)
    n_changed = 0
    for start in set(starts.tolist()):
        own = inputs[:, starts == start]
        answer = oracle(task, own)
        # Noise on what tells the answer gives worth to whatever else tells it, so that an oracle that errs needs all.
        if task.oracle_error() == 0:
            donor = own.roll(1, dims=1)
            torch.testing.assert_close(oracle(task, torch.cat((donor[:start], own[start:]))), answer)
        # Others whose answers began no later: when it began may be all that the answer depends on.
        others = (starts <= start).nonzero()[:, 0]
        donor = inputs[:, others[torch.randint(len(others), own.shape[1:2], generator=generator)]]
        changed = oracle(task, torch.cat((donor[: start + 1], own[start + 1 :]))) != answer
        n_changed += int(changed.any(-1).any(0).sum())
    # At least every fourth of the sequences: even for a bit, half of the donors disagree.
    assert n_changed > 100


@every_task
def test_task_changes_nothing_it_is_given(task: Task) -> None:
    batch = draw(task, 5, 25)
    outputs = torch.randn(2, batch.n_read, 5, task.n_out, generator=Generator().manual_seed(0))
    given = (batch.inputs, batch.targets, outputs)
    before = [tensor.clone() for tensor in given]
    task.loss(batch, outputs)
    task.failed(batch, outputs)
    task.oracle(batch)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
