"""Piano rolls: frames and windows, read back from the pieces; and pickles that are refused before they can do harm."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from tasks.dataset import SPLITS
from tasks.piano_roll import PianoRolls
from tasks_tests.data_files import Rolls, rolls, write_rolls
from tasks_tests.task_book import draws


def loaded(path: Path) -> PianoRolls:
    music = PianoRolls(path=str(path))
    music.load()
    return music


def notes(frame: torch.Tensor) -> tuple[int, ...]:
    return tuple(21 + key for key in frame.nonzero()[:, 0].tolist())


def test_every_frame_but_a_pieces_first_is_an_answer(tmp_path: Path) -> None:
    music = loaded(write_rolls(tmp_path))
    for split in SPLITS:
        answers = [(piece, t) for piece in rolls()[split] for t in range(1, len(piece))]
        assert music.histories(split).tolist() == [t for _, t in answers]
        for number, (piece, t) in enumerate(answers):
            batch = music.excerpt(split, torch.tensor([number]), t)
            assert [notes(frame) for frame in batch.inputs[:, 0]] == piece[:t]
            assert notes(batch.targets[0, 0]) == piece[t]


def test_sample_cuts_long_pieces_anywhere_and_leaves_the_rest_of_short_ones_unasked(tmp_path: Path) -> None:
    batch = loaded(write_rolls(tmp_path)).sample(draws(4000), 20)
    short, long, tiny, _ = rolls()["train"]
    counts = dict.fromkeys(("short", "long", "tiny"), 0)
    starts = set()
    for inputs, targets in zip(batch.inputs.transpose(0, 1), batch.targets.transpose(0, 1), strict=True):
        n_asked = int((~targets.isnan().any(-1)).sum())
        name, piece = {11: ("short", short), 20: ("long", long), 1: ("tiny", tiny)}[n_asked]
        counts[name] += 1
        frames = [notes(frame) for frame in (*inputs[:n_asked], targets[n_asked - 1])]
        places = [start for start in range(len(piece) - n_asked) if piece[start : start + n_asked + 1] == frames]
        assert len(places) == 1
        starts |= {places[0]} if name == "long" else set()
        assert targets[n_asked:].isnan().all()
    # A piece's share is that of its answers, 11, 29 and 1 of 41, within five standard errors.
    for name, n_answers in (("short", 11), ("long", 29), ("tiny", 1)):
        share = n_answers / 41
        assert abs(counts[name] / 4000 - share) < 5 * (share * (1 - share) / 4000) ** 0.5
    assert starts == set(range(10))


def test_a_frame_that_is_not_asked_has_no_slope(tmp_path: Path) -> None:
    music = loaded(write_rolls(tmp_path))
    batch = music.sample(draws(50), 20)
    _, slope = music.loss_and_slope(batch, torch.randn((2, 20, 50, 88), generator=torch.Generator().manual_seed(1)))
    unasked = batch.targets.isnan().any(-1)
    assert unasked.any()
    assert (slope[:, unasked] == 0).all()
    assert (slope[:, ~unasked] != 0).all()


Frame = Callable[[tuple[int, ...]], object]


def as_numpy(given: Rolls, frame: Frame) -> dict[str, list[list[object]]]:
    return {split: [[frame(one) for one in piece] for piece in pieces] for split, pieces in given.items()}


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "frame",
    [lambda frame: [numpy.int64(note) for note in frame], lambda frame: numpy.array(frame, dtype=numpy.int16)],
    ids=["numbers", "arrays"],
)
def test_load_takes_numpys_numbers_and_arrays(tmp_path: Path, protocol: int, frame: Frame) -> None:
    path = tmp_path / "numpy.pickle"
    path.write_bytes(pickle.dumps(as_numpy(rolls(), frame), protocol=protocol))
    expected = loaded(write_rolls(tmp_path))
    for split in SPLITS:
        for number, history in enumerate(expected.histories(split).tolist()):
            one = torch.tensor([number])
            assert torch.equal(
                loaded(path).excerpt(split, one, history).inputs, expected.excerpt(split, one, history).inputs
            )


def test_load_takes_what_python_2_and_its_numpy_wrote(tmp_path: Path) -> None:
    # Opcodes by hand, as no Python 3 writes them: strings of bytes, and numpy under its old name.
    dtype = b"cnumpy\ndtype\nU\x02i8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"

    def scalar(note: int) -> bytes:
        return b"cnumpy.core.multiarray\nscalar\n" + dtype + b"U\x08" + note.to_bytes(8, "little") + b"\x86R"

    piece = b"((" + scalar(60) + scalar(108) + b"l(" + scalar(21) + b"ll"
    parts = b"".join(b"U" + bytes([len(split)]) + split.encode() + b"(" + piece + b"l" for split in SPLITS)
    (tmp_path / "old.pickle").write_bytes(b"\x80\x02(" + parts + b"d.")
    batch = loaded(tmp_path / "old.pickle").excerpt("test", torch.tensor([0]), 1)
    assert notes(batch.inputs[0, 0]) == (60, 108)
    assert notes(batch.targets[0, 0]) == (21,)


class Harmful:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_load_runs_nothing_that_a_pickle_names(tmp_path: Path) -> None:
    path, touched = tmp_path / "harmful.pickle", tmp_path / "touched"
    path.write_bytes(pickle.dumps({**rolls(), "more": Harmful(touched)}))
    with pytest.raises(
        ValueError, match=r"^piano rolls must be a pickled dictionary .* cannot be read as one: it names"
    ):
        loaded(path)
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists(), "the pickle does no harm to anybody, so that its refusal proves nothing"


MALFORMED: dict[str, tuple[object, str]] = {
    "a list": ([1, 2], "has not the three parts"),
    "a part missing": ({"train": [], "valid": []}, "has not the three parts"),
    "a number for a part": (rolls() | {"valid": 3}, "in valid of .* 3 stands for a list"),
    "a word for a frame": (rolls() | {"test": [["ab"]]}, "in test of .* 'ab' stands for a list"),
    "a word for a note": (rolls() | {"test": [[("a",)]]}, "in test of .* 'str' object cannot be interpreted"),
    "half a note": (rolls() | {"test": [[(60.5,)]]}, "in test of .* 'float' object cannot be interpreted"),
    "no piano key": (rolls() | {"train": [[(20,), (60,)]]}, "a note is 20, which is no piano key from 21 to 108"),
    "a part without answers": (rolls() | {"valid": [[(60,)]]}, "valid of .* must have a piece of 2 frames or more"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_load_refuses_what_is_no_piano_roll(tmp_path: Path, case: str) -> None:
    held, saying = MALFORMED[case]
    path = tmp_path / "rolls.pickle"
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(ValueError, match=saying):
        loaded(path)


def test_load_refuses_a_pickle_that_is_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write_rolls(tmp_path).read_bytes()
    path = tmp_path / "cut.pickle"
    for end in range(0, len(whole), 37):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cannot be read as one"):
            loaded(path)
