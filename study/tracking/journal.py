"""The journal: lines that one process appends and one thread of it takes off again, safe against crashes."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from study.errors import LonglagError

READ_BYTES = 1 << 22
"""How much ``read`` takes into memory at once."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the journal, and where in the file it ends."""

    text: bytes
    end: int


FILE = "journal.jsonl"


def unsent(folder: Path) -> bool:
    """Whether a journal that nobody writes at present holds lines that are not done with."""
    file = folder / FILE
    return file.is_file() and file.stat().st_size > 0


class Journal:
    """An append-only file with a cursor before which everything is done with.

    What is appended outlives the death of the process at once, and a power failure once it is durable: at the append
    if that asks for it, else at the next one that does or at the next ``read``. A line torn by a crash was never
    acknowledged and is cut off. Once all lines are done with, the file is emptied. The folder belongs to one process
    at a time.
    """

    def __init__(self, folder: Path) -> None:
        """Take up the journal in this folder where its cursor is; raises LonglagError if that is impossible."""
        self._folder, self._cursor_path = folder, folder / "cursor"
        self._lock = threading.Lock()
        self._cursor = self._size = self._n_pending = 0
        self._closed = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()
        except BlockingIOError:
            os.close(self._file)
            raise LonglagError(f"a journal must be written by one process, but {folder} is in use") from None
        except OSError as error:
            os.close(self._file)
            raise self._unwritable(error) from error

    @property
    def n_pending(self) -> int:
        """Lines that are not done with."""
        return self._n_pending

    def append(self, line: bytes, *, durable: bool) -> None:
        """Add a line that ends in a newline.

        Raises:
            LonglagError: the disk is full or broken; the journal is as it was before.
        """
        with self._lock:
            if self._closed:
                raise ValueError("append needs an open journal, but it is closed")
            try:
                _write(self._file, line)
                if durable:
                    os.fsync(self._file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise self._unwritable(error) from error
            self._size += len(line)
            self._n_pending += 1

    def read(self) -> list[Line]:
        """The next lines after the cursor, made durable; none if all is done with."""
        with self._lock:
            if self._closed:
                return []
            start, size = self._cursor, self._size
        if start == size:
            return []
        os.fsync(self._file)
        block = os.pread(self._file, min(READ_BYTES, size - start), start)
        while b"\n" not in block:
            block += os.pread(self._file, min(READ_BYTES, size - start - len(block)), start + len(block))
        lines, end = [], start
        for text in block[: block.rindex(b"\n") + 1].splitlines(keepends=True):
            end += len(text)
            lines.append(Line(text=text, end=end))
        return lines

    def advance(self, end: int, n_lines: int) -> None:
        """Be done with ``n_lines`` more lines, the last of which ends at ``end``. Nothing happens after ``close``."""
        with self._lock:
            if self._closed:
                return
            emptied = end == self._size
            self._write_cursor(0 if emptied else end)
            self._cursor = end
            self._n_pending -= n_lines
            if emptied:
                # Only now: a cursor beyond an emptied file would skip what is appended next. Dying in between
                # replays lines that are done with, which is harmless.
                os.ftruncate(self._file, 0)
                self._cursor = self._size = 0

    def close(self) -> None:
        """Let the folder go; whatever is pending stays in it."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._file)

    def _recover(self) -> None:
        """Cut a torn line off, and find the cursor, which a power failure may have left beyond the end."""
        try:
            cursor = int(self._cursor_path.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            cursor = 0
        self._cursor = min(cursor, os.fstat(self._file).st_size)
        self._write_cursor(self._cursor)
        os.lseek(self._file, self._cursor, os.SEEK_SET)
        self._size = at = self._cursor
        while block := os.read(self._file, READ_BYTES):
            self._n_pending += block.count(b"\n")
            if (last := block.rfind(b"\n")) >= 0:
                self._size = at + last + 1
            at += len(block)
        os.ftruncate(self._file, self._size)

    def _write_cursor(self, cursor: int) -> None:
        """Replace the cursor file as a whole, so that a crash leaves the old one or the new one."""
        half_written = self._folder / "cursor.part"
        file = os.open(half_written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write(file, str(cursor).encode("ascii"))
            os.fsync(file)
        finally:
            os.close(file)
        half_written.rename(self._cursor_path)

    def _unwritable(self, error: OSError) -> LonglagError:
        return LonglagError(f"the journal of a study must be writable, but {self._folder} is not: {error.strerror}")


def _write(file: int, data: bytes) -> None:
    """Write all of it; a single call may stop short at the disk's end and only tell why at the next."""
    while data:
        data = data[os.write(file, data) :]
