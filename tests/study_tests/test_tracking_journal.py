"""The journal: what was acknowledged is never lost, whatever kills the process or fills the disk."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.errors import LonglagError
from study.tracking.journal import READ_BYTES, Journal, JournalReader, n_pending


def _texts(folder: Path) -> list[bytes]:
    """All that is pending, taken off in the reader's way."""
    reader, found = JournalReader(folder), []
    while lines := reader.read():
        found += [line.text for line in lines]
        reader.advance(lines[-1].end)
    reader.close()
    return found


def _lines(n: int) -> list[bytes]:
    return [json.dumps({"number": number, "text": "x" * (number % 50)}).encode() + b"\n" for number in range(n)]


def _filled(folder: Path, lines: list[bytes]) -> Journal:
    journal = Journal(folder)
    for line in lines:
        journal.append(line, durable=False)
    return journal


def test_journal_gives_lines_back_in_order(tmp_path: Path) -> None:
    _filled(tmp_path, _lines(100))
    assert n_pending(tmp_path) == 100
    assert _texts(tmp_path) == _lines(100)
    assert n_pending(tmp_path) == 0


def test_reader_goes_on_at_the_cursor(tmp_path: Path) -> None:
    _filled(tmp_path, _lines(10))
    reader = JournalReader(tmp_path)
    reader.advance(reader.read()[3].end)
    reader.close()
    assert n_pending(tmp_path) == 6
    assert _texts(tmp_path) == _lines(10)[4:]


def test_journal_is_empty_when_all_is_done_with(tmp_path: Path) -> None:
    journal = _filled(tmp_path, _lines(10))
    reader = JournalReader(tmp_path)
    for text in (*_lines(10), b"after\n"):
        lines = reader.read()
        assert lines[0].text == text
        reader.advance(lines[0].end)
        if len(lines) == 1:
            assert (tmp_path / "journal.jsonl").stat().st_size == 0
            assert reader.read() == []
            journal.append(b"after\n", durable=True)


def test_reader_replays_when_the_cursor_was_not_written(tmp_path: Path) -> None:
    _filled(tmp_path, _lines(10)).close()
    kept = (tmp_path / "journal.jsonl").read_bytes()
    _texts(tmp_path)
    (tmp_path / "journal.jsonl").write_bytes(kept)
    assert _texts(tmp_path) == _lines(10)


def test_journal_loses_nothing_appended_after_a_cursor_beyond_the_end(tmp_path: Path) -> None:
    # Journal emptied, old cursor file: the order in which a power failure may keep the two.
    Journal(tmp_path).close()
    (tmp_path / "cursor").write_text("500")
    _filled(tmp_path, _lines(3)).close()
    (tmp_path / "journal.jsonl").write_bytes((tmp_path / "journal.jsonl").read_bytes() + b"".join(_lines(100)[3:]))
    assert _texts(tmp_path) == _lines(100)


@pytest.mark.parametrize("n_bytes", [1, 5, 20])
def test_journal_cuts_a_torn_line_off(tmp_path: Path, n_bytes: int) -> None:
    _filled(tmp_path, _lines(3)).close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(_lines(60)[55][:n_bytes])
    journal = Journal(tmp_path)
    assert n_pending(tmp_path) == 3
    journal.append(b"whole\n", durable=True)
    assert _texts(tmp_path) == [*_lines(3), b"whole\n"]


@pytest.mark.parametrize("n_lines", [0, 3])
def test_reader_leaves_a_line_alone_that_a_dead_writer_has_torn(tmp_path: Path, n_lines: int) -> None:
    _filled(tmp_path, _lines(n_lines)).close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b"torn")
    assert _texts(tmp_path) == _lines(n_lines)
    _filled(tmp_path, [b"whole\n"])
    assert _texts(tmp_path) == [b"whole\n"]


def test_reader_reads_a_line_longer_than_a_block(tmp_path: Path) -> None:
    lines = [b"a" * (2 * READ_BYTES + 7) + b"\n", b"b\n", b"c" * READ_BYTES + b"\n"]
    _filled(tmp_path, lines)
    assert n_pending(tmp_path) == 3
    assert _texts(tmp_path) == lines


def test_journal_refuses_a_second_owner(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(LonglagError, match="a journal must be written by one process"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_reader_refuses_to_be_the_second(tmp_path: Path) -> None:
    _filled(tmp_path, _lines(2))
    first = JournalReader(tmp_path)
    with pytest.raises(LonglagError, match="a journal must be read by one process"):
        JournalReader(tmp_path)
    first.close()
    assert _texts(tmp_path) == _lines(2)


def test_reader_lets_nobody_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(tmp_path, _lines(3))
    reader, fsync, synced = JournalReader(tmp_path), os.fsync, []

    def checked(file: int) -> None:
        # Raises if somebody has the lock that an append needs.
        with (tmp_path / "journal.jsonl").open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsync(file)
        synced.append(file)

    monkeypatch.setattr(os, "fsync", checked)
    lines = reader.read()
    reader.advance(lines[0].end)
    reader.advance(lines[-1].end)
    assert len(synced) == 5
    assert n_pending(tmp_path) == 0


def test_journal_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LonglagError, match="the journal of a study must be writable"):
        Journal(tmp_path / "file" / "spool")


def test_journal_refuses_lines_after_close(tmp_path: Path) -> None:
    journal = _filled(tmp_path, _lines(2))
    journal.close()
    journal.close()
    with pytest.raises(ValueError, match="append needs an open journal"):
        journal.append(b"late\n", durable=True)
    assert n_pending(tmp_path) == 2


_FILLER = """
import resource, sys
from pathlib import Path
from study.errors import LonglagError
from study.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
count = 0
try:
    while True:
        journal.append(b"x" * 299 + b"\\n", durable=True)
        count += 1
except LonglagError as error:
    print(count, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append(b"room again\\n", durable=True)
"""


def test_journal_keeps_what_it_has_when_the_disk_is_full(tmp_path: Path) -> None:
    # A limit on the size of files acts as a full disk does: the write stops short, the next one fails.
    done = subprocess.run(
        [sys.executable, "-c", _FILLER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("3 the journal of a study must be writable, but")
    assert _texts(tmp_path) == [b"x" * 299 + b"\n"] * 3 + [b"room again\n"]


_WRITER = """
import sys
from pathlib import Path
from study.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    journal.append(b"%d %s\\n" % (number, b"x" * (number % 5000)), durable=number % 7 == 0)
    print(number, flush=True)
    number += 1
"""


def test_journal_has_all_that_was_acknowledged_when_its_process_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(300):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = 300 + len(writer.stdout.read().splitlines())
    lines = _texts(tmp_path)
    assert len(lines) >= acknowledged
    assert lines == [b"%d %s\n" % (number, b"x" * (number % 5000)) for number in range(len(lines))]


_APPENDER = """
import sys
from pathlib import Path
from study.tracking.journal import Journal, n_pending
folder = Path(sys.argv[1])
journal = Journal(folder)
for number in range(5000):
    journal.append(b"%d\\n" % number, durable=False)
    while number % 100 == 0 and n_pending(folder):
        pass
"""


def test_reader_gets_every_line_once_while_another_process_appends(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    with subprocess.Popen([sys.executable, "-c", _APPENDER, str(tmp_path)]) as writer:
        reader, found, n_emptied = JournalReader(tmp_path), [], 0
        while writer.poll() is None or reader.read():
            if lines := reader.read():
                found += [line.text for line in lines]
                reader.advance(lines[-1].end)
                n_emptied += (tmp_path / "cursor").read_text() == "0"
        reader.close()
    assert writer.returncode == 0
    assert found == [b"%d\n" % number for number in range(5000)]
    # Else nothing would have been seen of appending to what is being emptied.
    assert n_emptied >= 50
