"""What every task's loss must hold: members do not mix, and slopes are its gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.autograd import gradcheck

from tasks import Batch, Task
from tasks_tests.task_book import draw, every_task, oracle


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
