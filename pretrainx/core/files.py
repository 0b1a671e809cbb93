"""Files that are either whole or absent: atomic writes, hashes, and a lock for a folder."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrainx.core.errors import InputError

MAX_JSON_BYTES = 1 << 30  # beyond any manifest or evaluation of ours


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes a file that a reader sees whole or not at all, also after a power cut."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON with sorted keys, atomically: equal values give equal bytes."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path | str, what: str) -> Any:
    """Reads a JSON file; `what` names it in the error, e.g. "cache manifest". Its size is bounded before it is read."""
    try:
        if (size := os.stat(path).st_size) > MAX_JSON_BYTES:
            raise InputError(f"{what} {path} has {size:,} bytes; accepted are up to {MAX_JSON_BYTES:,}")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} not found: {path}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_json(value: Any) -> str:
    """The hash of a JSON value, independent of key order and spacing."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())


def stamp(path: Path | str) -> tuple[int, ...]:
    """Size, times and inode of a file: what is unchanged while its content is, so that it need not be read again."""
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def sha256_file(path: Path | str) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Holds a folder for one live process; the kernel frees it when the process dies, however it dies."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            raise InputError(
                f"output folder {folder} is in use by a live run (pid {stream.read().strip() or 'unknown'}); "
                "stop that run or choose another --workdir"
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
