"""Bytes out of files, plain or compressed, in bounded memory; and what is said, and to whom, about a record that is damaged.

A reader hands every record that cannot become a document to `on_bad`. The default, `refuse`, ends the reading with the
record's sentence; a caller with another policy counts it and returns, and the reader goes on behind it.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pretrainx.core.errors import InputError

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
DAMAGED = "damaged_file"  # the reason of a file that cannot be read any further
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DRAIN_BYTES = 1 << 20  # read at once to reach the end of a line that is too long


class BadRecord(InputError):
    """A record that is no document. `reason` is one word for counts; without `fault` the file is as it should be (a redirect, a picture).

    `number` is the record's, from 1; of a file that ends in damage, that of its last good record.
    """

    def __init__(self, message: str, reason: str, number: int, fault: bool = True):
        super().__init__(message)
        self.reason, self.number, self.fault = reason, number, fault


OnBad = Callable[[BadRecord], None]


def refuse(bad: BadRecord) -> None:
    """The policy that ends the reading at the first record that is at fault."""
    if bad.fault:
        raise bad


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed by the end of its name (.gz, .zst, .bz2, .xz)."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".bz2":
        return bz2.open(path, "rb")
    if path.suffix == ".xz":
        return lzma.open(path, "rb")
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise InputError(f"{path}: .zst files need one more package: pip install zstandard") from None
        return io.BufferedReader(_Zstandard(open(path, "rb"), zstandard.ZstdDecompressor()))
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """A decompressed stream whose early end is an error: the package's own reader takes it for the end of the text."""

    def __init__(self, stream: IO[bytes], decompressor: Any):
        self._stream, self._new, self._ready = stream, decompressor.decompressobj, b""
        self._frame = self._new()
        self._whole = True  # no frame is begun

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._stream.read(1 << 14)
            if not data:
                if not self._whole:
                    raise EOFError("it ends inside a compressed frame")
                return 0
            if self._frame.eof:
                self._frame = self._new()
            self._ready = self._frame.decompress(data)
            self._whole = self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def guarded(act: Callable[[], bytes], path: Path, done: int) -> bytes:
    """Runs one read of a maybe compressed stream; damage becomes a BadRecord that names the last good record."""
    try:
        return act()
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise damaged(path, done, error) from None
    except OSError as error:
        if error.errno is not None:  # the machine's own; bz2 tells bad data as one without a number
            raise
        raise damaged(path, done, error) from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise damaged(path, done, error) from None
        raise


def damaged(path: Path, done: int, error: object) -> BadRecord:
    return BadRecord(f"{path}: the compressed file is damaged or cut off after record {done}: {error}", DAMAGED, done)


def lines(
    path: Path, limit: int, on_bad: OnBad = refuse, piece: tuple[int, int, int] = (0, 0, 1), ends: str = ""
) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line with its end) of a file; no line longer than `limit` bytes is ever held whole.

    `piece` (first byte, end or 0, number of its first line) reads a stretch of a plain file that begins and ends with whole lines.
    `ends` is how the error for a long line ends: what the user can do.
    """
    first, end, number = piece
    number -= 1
    with open_bytes(path) as stream:
        if first:
            stream.seek(first)
        at = first
        while not end or at < end:
            try:
                line = guarded(lambda: stream.readline(limit + 2), path, number)
            except BadRecord as error:
                on_bad(error)
                return
            if not line:
                return
            number += 1
            at += len(line)
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if len(line.rstrip(b"\r\n")) > limit:
                on_bad(too_long(path, number, limit, ends))
                while line and not line.endswith(b"\n"):
                    try:
                        line = guarded(lambda: stream.readline(_DRAIN_BYTES), path, number - 1)
                    except BadRecord as error:
                        on_bad(error)
                        return
                    at += len(line)
                continue
            yield number, line


def too_long(path: Path, number: int, limit: int, ends: str = "") -> BadRecord:
    return BadRecord(f"{path}, record {number}: longer than {ends or f'{limit:,} bytes'}", "too_long", number)


def whole(path: Path, limit: int, ends: str = "") -> bytes:
    """All bytes of a file that is one document, without a byte order mark.

    Raises:
      BadRecord: it is longer than `limit`, or damaged.
    """
    with open_bytes(path) as stream:
        data = guarded(lambda: stream.read(limit + 1), path, 0)
    if len(data) > limit:
        raise too_long(path, 1, limit, ends)
    return data.removeprefix(_BYTE_ORDER_MARK)
