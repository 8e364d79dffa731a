"""Text: parts, alphabet and windows, read back from the file; and files that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.dataset import SPLITS, Split
from tasks.text import Text
from tasks_tests.data_files import letters
from tasks_tests.task_book import draws


def loaded(path: Path) -> Text:
    text = Text(path=str(path))
    text.load()
    return text


def part(text: Text, split: Split) -> list[int]:
    """The codes of a part, put together from its answers."""
    histories = text.histories(split)
    assert histories.tolist() == list(range(1, len(histories) + 1))
    last = text.excerpt(split, torch.tensor([len(histories) - 1]), len(histories))
    return [*last.inputs[:, 0].tolist(), int(last.targets[0, 0])]


def test_one_file_is_cut_into_three_parts_that_make_it_up(tmp_path: Path) -> None:
    whole = letters(1000, lag=3)
    (tmp_path / "a.txt").write_text(whole)
    text = loaded(tmp_path / "a.txt")
    parts = [part(text, split) for split in SPLITS]
    assert [len(codes) for codes in parts] == [900, 50, 50]
    assert "".join("abc"[code] for codes in parts for code in codes) == whole


def test_a_star_stands_for_three_files(tmp_path: Path) -> None:
    # Line ends of two characters stay; characters beyond 16 bits are one each.
    contents = {"train": "b\r\n\U0001f600a", "valid": "ab", "test": "xa\n"}
    for split, content in contents.items():
        (tmp_path / f"ptb.{split}.txt").write_bytes(content.encode())
    text = loaded(tmp_path / "ptb.*.txt")
    # By code point: line feed, carriage return, a, b, and the face; the last code is what training lacks.
    assert {split: part(text, split) for split in SPLITS} == {
        "train": [3, 1, 0, 4, 2],
        "valid": [2, 3],
        "test": [5, 2, 0],
    }
    assert (text.n_in, text.n_out) == (6, 6)


def test_sample_takes_training_text_and_asks_what_follows(tmp_path: Path) -> None:
    whole = letters(200, lag=3, p_random=1.0)
    (tmp_path / "a.txt").write_text(whole)
    text = loaded(tmp_path / "a.txt")
    batch = text.sample(draws(3000), 12)
    assert torch.equal(batch.inputs[1:], batch.targets[:-1])
    seen = {
        "".join("abc"[code] for code in [*inputs, target])
        for inputs, target in zip(batch.inputs.T.tolist(), batch.targets[-1].tolist(), strict=True)
    }
    # 180 characters hold 168 windows of 13; 3000 draws miss one of them with a probability of 168 e^-17.
    assert seen == {whole[start : start + 13] for start in range(168)}


def test_sample_asks_nothing_past_the_end_of_a_short_text(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text("abcab")
    batch = loaded(tmp_path / "*.txt").sample(draws(3), 9)
    assert batch.inputs[:4].T.tolist() == [[0, 1, 2, 0]] * 3
    assert batch.targets.T.tolist() == [[1, 2, 0, 1, -1, -1, -1, -1, -1]] * 3


@pytest.mark.parametrize(
    ("content", "saying"),
    [
        (b"", r"each part of the text must have 2 characters or more, but .* has 0 in train, 0 in valid, 0 in test"),
        (b"a" * 20, r"but .* has 18 in train, 1 in valid, 1 in test"),
        (b"\xff\xfe\x00", r"text must be UTF-8, but .*a\.txt is not"),
    ],
)
def test_load_refuses_what_is_no_text(tmp_path: Path, content: bytes, saying: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=saying):
        loaded(tmp_path / "a.txt")


def test_load_refuses_a_path_that_is_relative_or_leads_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^path must be absolute, .* but got path='a\.txt'$"):
        loaded(Path("a.txt"))
    with pytest.raises(OSError, match=r"^text must be in a file that can be read, but .*: No such file or directory$"):
        loaded(tmp_path / "a.txt")
    with pytest.raises(OSError, match=r"train\.txt cannot: No such file"):
        loaded(tmp_path / "*.txt")


def test_files_are_one_or_that_of_each_part() -> None:
    assert Text(path="/a/book.txt").files() == ["/a/book.txt"]
    assert Text(path="/a/ptb.*.txt").files() == ["/a/ptb.train.txt", "/a/ptb.valid.txt", "/a/ptb.test.txt"]
