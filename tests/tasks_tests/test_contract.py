"""What every task in ``TASKS`` must hold, in each of its variants.

A new task is covered by its entry in ``TASKS``; variants are read off the constructor's signature. Where ``EARLIEST``
says where a task's answer begins, its guaranteed lag is confirmed by somebody else's count, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import gradcheck

from tasks import TASKS, Batch, Task


def closed_parameters(kind: type[Task]) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(kind.__init__)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}


def variants() -> Iterator[Any]:
    for name, kind in TASKS.items():
        closed = closed_parameters(kind)
        for values in itertools.product(*closed.values()):
            yield pytest.param(kind(**dict(zip(closed, values, strict=True))), id="-".join((name, *map(str, values))))


every_task = pytest.mark.parametrize("task", list(variants()))
certain_task = pytest.mark.parametrize("task", [variant for variant in variants() if not variant.values[0].noisy])
noisy_task = pytest.mark.parametrize("task", [variant for variant in variants() if variant.values[0].noisy])


def draw(task: Task, n_sequences: int, length: int, seed: int = 0) -> Batch:
    return task.sample(Generator().manual_seed(seed), n_sequences, length)


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


def lengths(task: Task) -> tuple[int, ...]:
    least = task.shortest_length
    return (least, least + 1, least + 6, least + 33, 100, 250)


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
def test_sample_is_a_function_of_the_generator(task: Task) -> None:
    one, same, other = draw(task, 9, 30, seed=1), draw(task, 9, 30, seed=1), draw(task, 9, 30, seed=2)
    assert torch.equal(one.inputs, same.inputs)
    assert torch.equal(one.targets, same.targets)
    assert not torch.equal(one.inputs, other.inputs)


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


def oracle(task: Task, inputs: Tensor) -> Tensor:
    # The targets are none of the oracle's business.
    return task.oracle(Batch(inputs=inputs, targets=torch.empty(0)))


@every_task
def test_oracle_fails_as_much_as_it_says_and_nothing_without_noise(task: Task) -> None:
    error = task.oracle_error()
    assert error == 0 or task.noisy
    for length in lengths(task):
        batch = draw(task, 500, length)
        answer = oracle(task, batch.inputs)
        assert answer.shape == (batch.n_read, 500, task.n_out)
        failed = task.failed(batch, answer.unsqueeze(0))
        assert failed.dtype == torch.bool
        assert failed.shape == (1, 500)
        # Six standard errors of a binomial share; none where there is no noise.
        assert abs(float(failed.double().mean()) - error) <= 6 * math.sqrt(error * (1 - error) / 500)


@certain_task
def test_oracle_has_the_lowest_loss(task: Task) -> None:
    batch = draw(task, 50, 40)
    answer = oracle(task, batch.inputs).unsqueeze(0)
    least = task.loss(batch, answer)
    assert torch.allclose(least, torch.zeros(1), atol=1e-12)
    for seed, scale in enumerate((1e-3, 0.1, 1.0, 10.0)):
        noise = scale * torch.randn(100, *answer.shape[1:], generator=Generator().manual_seed(seed))
        assert (task.loss(batch, answer + noise) >= least).all()
    assert (task.loss(batch, answer.roll(1, dims=2)) > least + 0.01).all()


def many(task: Task, length: int) -> int:
    """Sequences for a test of shares and means: 20 000, or as many as have two million outputs."""
    return min(20_000, 2_000_000 // (draw(task, 1, length).n_read * task.n_out))


def loss_of_each(task: Task, batch: Batch, output: Tensor) -> Tensor:
    """Loss of each sequence by itself, ``[B]``, by making a member of it."""
    inputs, targets, outputs = (values.transpose(0, 1).unsqueeze(2) for values in (batch.inputs, batch.targets, output))
    return task.loss(Batch(inputs=inputs, targets=targets), outputs)


@noisy_task
def test_oracle_has_the_lowest_expected_loss_when_the_task_is_noisy(task: Task) -> None:
    n_sequences = many(task, 25)
    batch = draw(task, n_sequences, 25)
    answer = oracle(task, batch.inputs)
    least = loss_of_each(task, batch, answer)
    # The noise is there: no task escapes the test of its exact losses by calling itself noisy.
    assert least.mean() > 1e-6
    noise = torch.randn(answer.shape, generator=Generator().manual_seed(0))
    others = [answer + scale * noise for scale in (0.1, 1.0, 10.0)]
    others += [answer + shift for shift in (-0.5, -0.1, 0.1, 0.5)]
    others += [answer * factor for factor in (0.5, 0.9, 1.1, 2.0)]
    for other in others:
        gains = (least - loss_of_each(task, batch, other)).double()
        # Six standard errors, and the rounding of losses that a softmax makes equal.
        assert float(gains.mean()) < 6 * float(gains.std()) / math.sqrt(n_sequences) + 1e-6
    assert loss_of_each(task, batch, answer.roll(1, dims=1)).mean() > least.mean() + 0.01


@every_task
def test_chance_error_is_that_of_the_best_constant(task: Task) -> None:
    # Answers to other sequences serve as constants: among 100 of them one is as good as the best, near enough.
    chance = task.chance_error()
    # A limit for long sequences is attained where no constant suits any of them.
    length = 25 if chance < 1 else 100
    n_sequences = many(task, length)
    constants = oracle(task, draw(task, 100, length, seed=1).inputs).transpose(0, 1).unsqueeze(2)
    batch = draw(task, n_sequences, length)
    best = min(float(task.failed(batch, c[None].expand(-1, -1, n_sequences, -1)).double().mean()) for c in constants)
    standard_error = math.sqrt(chance * (1 - chance) / n_sequences)
    # Five standard errors are one false alarm in a million; the sixth pays for taking the best of several.
    assert abs(best - chance) <= 6 * standard_error


@every_task
def test_failed_counts_nan_in_any_place(task: Task) -> None:
    batch = draw(task, 6, 30)
    answer = oracle(task, batch.inputs)
    # Noise may have the oracle fail; not the sequence whose output is replaced, or nothing would be seen.
    failed = task.failed(batch, answer.unsqueeze(0))
    assert task.noisy or not failed.any()
    assert not failed[0, 4]
    for read, line in itertools.product(range(batch.n_read), range(task.n_out)):
        outputs = answer.repeat(3, 1, 1, 1)
        outputs[1, read, 4, line] = math.nan
        outputs[2] = math.nan
        expected = failed.repeat(3, 1)
        expected[1, 4] = True
        expected[2] = True
        assert torch.equal(task.failed(batch, outputs), expected)


@every_task
def test_members_may_have_their_own_targets(task: Task) -> None:
    batches = [draw(task, 8, 30, seed=seed) for seed in range(3)]
    # Right answers with noise and a wrong one or two: both kinds of verdict occur.
    noise = torch.randn(3, batches[0].n_read, 8, task.n_out, generator=Generator().manual_seed(3))
    outputs = torch.stack([oracle(task, batch.inputs) for batch in batches]).roll((0, 2), dims=(0, 2)) + 0.1 * noise
    own = Batch(
        inputs=torch.stack([batch.inputs for batch in batches]), targets=torch.stack([b.targets for b in batches])
    )
    assert own.n_read == batches[0].n_read
    torch.testing.assert_close(task.loss(own, outputs), torch.cat(each(task.loss, batches, outputs)))
    assert torch.equal(task.failed(own, outputs), torch.cat(each(task.failed, batches, outputs)))
    torch.testing.assert_close(oracle(task, own.inputs), torch.stack([oracle(task, b.inputs) for b in batches]))


@every_task
def test_members_share_targets_without_an_axis(task: Task) -> None:
    batch = draw(task, 8, 30)
    outputs = torch.randn(3, batch.n_read, 8, task.n_out, generator=Generator().manual_seed(3))
    loss, failed = task.loss(batch, outputs), task.failed(batch, outputs)
    assert loss.shape == (3,)
    assert failed.shape == (3, 8)
    torch.testing.assert_close(loss, torch.cat(each(task.loss, [batch] * 3, outputs)))
    assert torch.equal(failed, torch.cat(each(task.failed, [batch] * 3, outputs)))
    repeated = Batch(inputs=batch.inputs, targets=torch.stack([batch.targets] * 3))
    torch.testing.assert_close(loss, task.loss(repeated, outputs))
    assert torch.equal(failed, task.failed(repeated, outputs))


@every_task
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_slope_is_the_gradient_of_the_loss(task: Task, own: bool) -> None:
    batch = draw(task, 8, 30)
    if own:
        batch = Batch(inputs=batch.inputs, targets=torch.stack([batch.targets.roll(k, 1) for k in range(3)]))
    outputs = torch.randn(3, batch.n_read, 8, task.n_out, generator=Generator().manual_seed(3), dtype=torch.float64)
    # From almost nothing to a saturated answer.
    outputs = (outputs * torch.tensor([1e-3, 1.0, 100.0])[:, None, None, None]).requires_grad_()
    expected = task.loss(batch, outputs)
    (gradient,) = torch.autograd.grad(expected.sum(), outputs)
    loss, slope = task.loss_and_slope(batch, outputs.detach())
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-12)


def each(of: Callable[[Batch, Tensor], Tensor], batches: list[Batch], outputs: Tensor) -> list[Tensor]:
    return [of(batch, outputs[k : k + 1]) for k, batch in enumerate(batches)]


@every_task
def test_loss_has_the_gradient_of_its_finite_differences(task: Task) -> None:
    batch = draw(task, 5, 25)
    outputs = torch.randn(3, batch.n_read, 5, task.n_out, generator=Generator().manual_seed(0), dtype=torch.float64)
    # Thousands of outputs are nudged together in random directions, not one after the other.
    together = outputs.numel() > 1000
    assert gradcheck(lambda leaf: task.loss(batch, leaf), outputs.requires_grad_(), fast_mode=together)


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
