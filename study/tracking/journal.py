"""The journal: lines that one process appends and another takes off again, safe against the crash of either."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from study.errors import LonglagError

READ_BYTES = 1 << 22
"""How much ``read`` takes into memory at once."""

FILE, CURSOR = "journal.jsonl", "cursor"

_WRITER, _READER = "writer.lock", "reader.lock"
"""Files that are locked for as long as somebody writes, or reads; the journal's own lock is held for moments."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the journal, and where in the file it ends."""

    text: bytes
    end: int


def weights_folder(folder: Path) -> Path:
    """Where the weights lie that the lines of a journal name, until MLflow has them."""
    return folder / "weights"


def unsent(folder: Path) -> bool:
    """Whether a journal that nobody writes at present holds lines that are not done with."""
    file = folder / FILE
    return file.is_file() and file.stat().st_size > 0


def n_pending(folder: Path) -> int:
    """Lines of a journal that are not done with, counted in its file; for any thread of any process.

    Without a lock, lest who appends wait: a journal that is being emptied has a wrong number for a moment.
    """
    with (folder / FILE).open("rb") as file:
        return sum(block.count(b"\n") for _, block in _blocks(file.fileno(), _read_cursor(folder)))


class Journal:
    """The writing end: an append-only file with a cursor before which everything is done with.

    What is appended outlives the death of the process at once, and a power failure once it is durable: at the append
    if that asks for it, else at the next one that does or at the next look of a reader, who sees no line before
    ``append`` is through with it. A line torn by a crash was never acknowledged and is cut off. Once all lines are done
    with, the file is emptied. The folder has one writer at a time, and that is one thread.
    """

    def __init__(self, folder: Path) -> None:
        """Take up the journal in this folder; raises LonglagError if that is impossible."""
        self._folder = folder
        with ExitStack() as held:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                fcntl.flock(_opened(folder / _WRITER, held), fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file = _opened(folder / FILE, held)
                with _alone(self._file):
                    self._recover()
            except BlockingIOError:
                raise LonglagError(f"a journal must be written by one process, but {folder} is in use") from None
            except OSError as error:
                raise self._unwritable(error) from error
            self._held: ExitStack | None = held.pop_all()

    def append(self, lines: bytes, *, durable: bool) -> None:
        """Add lines, each of which ends in a newline.

        Raises:
            LonglagError: the disk is full or broken; the journal is as it was before.
        """
        if self._held is None:
            raise ValueError("append needs an open journal, but it is closed")
        try:
            with _alone(self._file):
                size = os.fstat(self._file).st_size
                try:
                    _write(self._file, lines)
                    if durable:
                        os.fsync(self._file)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(self._file, size)
                    raise
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Let the folder go; whatever is pending stays in it."""
        if self._held is not None:
            self._held.close()
            self._held = None

    def _recover(self) -> None:
        """Cut a torn line off, and move a cursor back that a power failure has left beyond the end."""
        size = os.fstat(self._file).st_size
        cursor = _read_cursor(self._folder)
        if cursor > size:
            cursor = size
            _put_cursor(self._folder, cursor)
        end = cursor
        for at, block in _blocks(self._file, cursor):
            if (last := block.rfind(b"\n")) >= 0:
                end = at + last + 1
        os.ftruncate(self._file, end)

    def _unwritable(self, error: OSError) -> LonglagError:
        return LonglagError(f"the journal of a study must be writable, but {self._folder} is not: {error.strerror}")


class JournalReader:
    """The reading end, of which a folder has one at a time; where the cursor is, the next one goes on."""

    def __init__(self, folder: Path) -> None:
        """Look where the cursor is.

        Raises:
            LonglagError: there is another reader.
            OSError: the disk is broken.
        """
        self._folder = folder
        with ExitStack() as held:
            try:
                fcntl.flock(_opened(folder / _READER, held), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LonglagError(f"a journal must be read by one process, but {folder} is in use") from None
            self._file = _opened(folder / FILE, held)
            with _alone(self._file):
                self._cursor = min(_read_cursor(folder), os.fstat(self._file).st_size)
            self._held = held.pop_all()

    def read(self) -> list[Line]:
        """The next lines after the cursor, made durable; none if all is done with."""
        start = self._cursor
        with _alone(self._file):
            size = os.fstat(self._file).st_size
        if start == size:
            return []
        os.fsync(self._file)
        block = os.pread(self._file, min(READ_BYTES, size - start), start)
        while b"\n" not in block and len(block) < size - start:
            block += os.pread(self._file, min(READ_BYTES, size - start - len(block)), start + len(block))
        lines, end = [], start
        for text in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
            end += len(text)
            lines.append(Line(text=text, end=end))
        return lines

    def advance(self, end: int) -> None:
        """Be done with all lines up to the one that ends at ``end``."""
        # The lock is for moments in which nothing waits for a disk, lest who appends wait too.
        if end == os.fstat(self._file).st_size:
            # Before the file is emptied: a cursor beyond its end would skip what is appended next. Dying in between
            # replays lines that are done with, which is harmless.
            _put_cursor(self._folder, 0)
            with _alone(self._file):
                emptied = end == os.fstat(self._file).st_size
                if emptied:
                    os.ftruncate(self._file, 0)
            if emptied:
                self._cursor = 0
                return
        _put_cursor(self._folder, end)
        self._cursor = end

    def close(self) -> None:
        """Let the next reader come."""
        self._held.close()


def _opened(path: Path, held: ExitStack) -> int:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    held.callback(os.close, file)
    return file


@contextmanager
def _alone(file: int) -> Iterator[None]:
    """Nobody who has opened the file another time touches it during the body."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _blocks(file: int, start: int) -> Iterator[tuple[int, bytes]]:
    """The file from ``start`` on in pieces, each with where it begins."""
    while block := os.pread(file, READ_BYTES, start):
        yield start, block
        start += len(block)


def _read_cursor(folder: Path) -> int:
    try:
        return int((folder / CURSOR).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _put_cursor(folder: Path, cursor: int) -> None:
    """Replace the cursor file, durably and as a whole: a crash leaves the old one or the new one."""
    half_written = folder / f"{CURSOR}.part"
    with half_written.open("wb") as file:
        file.write(str(cursor).encode("ascii"))
        file.flush()
        os.fsync(file.fileno())
    half_written.rename(folder / CURSOR)
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def _write(file: int, data: bytes) -> None:
    """Write all of it; a single call may stop short at the disk's end and only tell why at the next."""
    while data:
        data = data[os.write(file, data) :]
