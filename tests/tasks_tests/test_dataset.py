"""What every data set must hold, on small files, against torch's own losses and loops over the raw data."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from tasks import DATASETS, Batch, Dataset
from tasks.dataset import SPLITS
from tasks_tests.data_files import write_letters, write_rolls
from tasks_tests.task_book import draws, of_each_stream_alone

KINDS = ("digits", "permuted", "text", "piano_rolls")


@pytest.fixture(scope="module", params=KINDS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    made: Dataset = {
        "digits": DATASETS["digits"],
        "permuted": lambda: DATASETS["digits"](**{"order": "permuted"}),
        "text": lambda: DATASETS["text"](**{"path": str(write_letters(folder))}),
        "piano_rolls": lambda: DATASETS["piano_rolls"](**{"path": str(write_rolls(folder))}),
    }[request.param]()
    made.load()
    return made


def test_every_dataset_is_covered() -> None:
    assert {kind.replace("permuted", "digits") for kind in KINDS} == set(DATASETS)
    assert all(DATASETS[name].name == name and DATASETS[name].source for name in DATASETS)


def lengths(dataset: Dataset) -> tuple[int, ...]:
    return (64,) if dataset.longest_length else (1, 7, 20)


def draw(dataset: Dataset, n_sequences: int, length: int, seed: int = 0) -> Batch:
    return dataset.sample(draws(n_sequences, seed=seed), length)


def outputs(dataset: Dataset, batch: Batch, n_members: int = 3) -> Tensor:
    shape = (n_members, batch.n_read, batch.targets.shape[1], dataset.n_out)
    spread = torch.randn(shape, generator=Generator().manual_seed(3), dtype=torch.float64)
    # From almost nothing to a saturated answer.
    return spread * torch.tensor([1e-3, 1.0, 30.0])[:n_members, None, None, None]


def test_sample_has_the_shapes_and_types_of_a_batch(dataset: Dataset) -> None:
    for length in lengths(dataset):
        batch = draw(dataset, 6, length)
        n_read = 1 if dataset.longest_length else length
        if dataset.symbolic:
            assert (batch.inputs.dtype, batch.inputs.shape) == (torch.int64, (length, 6))
            assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < dataset.n_in
        else:
            assert (batch.inputs.dtype, batch.inputs.shape) == (torch.float32, (length, 6, dataset.n_in))
            assert 0 <= float(batch.inputs.min()) <= float(batch.inputs.max()) <= 1
        if batch.targets.is_floating_point():
            assert (batch.targets.dtype, batch.targets.shape) == (torch.float32, (n_read, 6, dataset.n_out))
        else:
            assert (batch.targets.dtype, batch.targets.shape) == (torch.int64, (n_read, 6))


def test_sample_for_several_streams_at_once_gives_each_what_it_gets_alone(dataset: Dataset) -> None:
    for length in lengths(dataset):
        of_each_stream_alone(dataset, length)


def test_sample_is_a_function_of_what_it_draws_and_of_nothing_else(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    length = lengths(dataset)[-1]
    one, same, other = (draw(dataset, 9, length, seed) for seed in (1, 1, 2))
    assert torch.equal(one.inputs, same.inputs)
    torch.testing.assert_close(one.targets, same.targets, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(one.inputs, other.inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_sample_raises_when_no_sequence_has_the_length(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=f"^length >= {dataset.shortest_length} must hold"):
        draw(dataset, 3, dataset.shortest_length - 1)
    if dataset.longest_length is not None:
        with pytest.raises(ValueError, match=f"^length <= {dataset.longest_length} must hold"):
            draw(dataset, 3, dataset.longest_length + 1)


def test_loss_is_torchs_over_the_answers_that_are_asked(dataset: Dataset) -> None:
    for length in lengths(dataset):
        batch = draw(dataset, 30, length)
        given = outputs(dataset, batch)
        for k, output in enumerate(given):
            flat = output.flatten(0, 1)
            if batch.targets.is_floating_point():
                asked = ~batch.targets.flatten(0, 1).isnan().any(-1)
                notes = batch.targets.flatten(0, 1)[asked].double()
                expected = binary_cross_entropy_with_logits(flat[asked], notes, reduction="sum") / int(asked.sum())
            else:
                expected = cross_entropy(flat, batch.targets.flatten(), ignore_index=-1)
            torch.testing.assert_close(dataset.loss(batch, given)[k], expected)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_slope_is_the_gradient_of_the_loss(dataset: Dataset, own: bool) -> None:
    batch = draw(dataset, 12, lengths(dataset)[-1])
    given = outputs(dataset, batch).requires_grad_()
    if own:
        # Members that draw their own sequences may be asked different numbers of answers.
        targets = [draw(dataset, 12, lengths(dataset)[-1], seed).targets for seed in range(3)]
        batch = Batch(inputs=batch.inputs, targets=torch.stack(targets))
    expected = dataset.loss(batch, given)
    (gradient,) = torch.autograd.grad(expected.sum(), given)
    loss, slope = dataset.loss_and_slope(batch, given.detach())
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slope, gradient, rtol=1e-10, atol=1e-12)


def test_members_may_have_their_own_targets(dataset: Dataset) -> None:
    batches = [draw(dataset, 8, lengths(dataset)[-1], seed=seed) for seed in range(3)]
    given = outputs(dataset, batches[0])
    own = Batch(
        inputs=torch.stack([batch.inputs for batch in batches]), targets=torch.stack([b.targets for b in batches])
    )
    each = [dataset.loss(batch, given[k : k + 1]) for k, batch in enumerate(batches)]
    torch.testing.assert_close(dataset.loss(own, given), torch.cat(each))


def test_wrong_is_the_likeliest_answer_missed_and_counts_nan(dataset: Dataset) -> None:
    answers = torch.arange(5)
    batch = dataset.excerpt("valid", answers, 1)
    if batch.targets.is_floating_point():
        right = 4 * batch.targets - 2
        flipped = right * (1 - 2 * (torch.arange(dataset.n_out) == 43))
    else:
        right = one_hot(batch.targets, dataset.n_out).float()
        flipped = right.roll(1, -1)
    broken = right.clone()
    broken[0, 2, -1] = math.nan
    verdicts = dataset.likelihood.wrong(torch.stack([right, flipped, broken]), batch.targets)
    assert verdicts.shape == (3, 1, 5)
    assert not verdicts[0].any()
    assert verdicts[1].all()
    assert verdicts[2, 0].tolist() == [False, False, True, False, False]


def test_excerpt_holds_the_end_of_the_longest_one(dataset: Dataset) -> None:
    for split in SPLITS:
        histories = dataset.histories(split)
        assert int(histories.min()) >= 1
        for answer, length in ((0, 1), (len(histories) - 1, 3), (len(histories) // 2, 5)):
            one = torch.tensor([answer])
            whole = dataset.excerpt(split, one, int(histories[answer]))
            cut = dataset.excerpt(split, one, min(length, int(histories[answer])))
            assert torch.equal(whole.inputs[-len(cut.inputs) :], cut.inputs)
            assert torch.equal(whole.targets, cut.targets)
            assert cut.n_read == 1


def test_constant_is_better_than_its_neighbours_on_the_training_part(dataset: Dataset) -> None:
    answers = torch.arange(len(dataset.histories("train")))
    batch = dataset.excerpt("train", answers, 1)
    constant = dataset.constant()
    assert constant.shape == (dataset.n_out,)

    def loss(of: Tensor) -> float:
        return float(dataset.loss(batch, of.expand(1, 1, len(answers), -1)))

    right = batch.targets if batch.targets.is_floating_point() else one_hot(batch.targets, dataset.n_out)
    # What never occurs is expected all the same, though rarely: there the neighbour below is better.
    occurring = right.flatten(0, 1).any(0).nonzero()[:, 0].tolist()
    assert len(occurring) >= 3
    for step, line in itertools.product((-0.5, 0.5), occurring):
        moved = constant.clone()
        moved[line] += step
        assert loss(constant) < loss(moved)


def test_parameters_that_a_dataset_has_not_are_told_from_bad_values(tmp_path: Path) -> None:
    for kind in DATASETS.values():
        with pytest.raises(TypeError):
            kind(**{"nonsense": 1})
