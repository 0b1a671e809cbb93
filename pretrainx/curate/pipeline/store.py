"""Where the results of tasks lie: one folder a task, under the hash of all that it was made from. A folder is whole or absent.

work/<stage>/<key>/...      a finished task
work/<stage>/.<key>.*       one that was begun; whoever finds it after a crash may remove it
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pretrainx.core import files

RESULT = "result.json"  # what a task tells: small JSON


def key_of(*parts: Any) -> str:
    """The name of a result: a hash of JSON values, 128 bits as hex."""
    return files.sha256_json(list(parts))[:32]


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the name `folder` when the block ends well, and is removed when it does not."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():
                raise
            # Another process, left over from a run that was killed, has just finished the same task: its bytes are the same.
            shutil.rmtree(temporary)
        _sync(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk does not say where it is
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


def result(folder: Path) -> dict[str, Any]:
    """What a finished task told."""
    found: dict[str, Any] = files.read_json(folder / RESULT, "result of a curation task")
    return found


def tell(folder: Path, value: dict[str, Any]) -> None:
    files.write_json(folder / RESULT, value)


def clean_up(work: Path, used: Iterable[Path]) -> int:
    """Removes what no finished run refers to: tasks of other settings, and what crashes left. Returns how many folders went."""
    keep = {path.resolve() for path in used}
    gone = 0
    for stage in sorted(work.iterdir()) if work.is_dir() else ():
        for folder in sorted(stage.iterdir()) if stage.is_dir() else ():
            if folder.is_dir() and folder.resolve() not in keep:
                shutil.rmtree(folder, ignore_errors=True)
                gone += 1
    return gone


def remove_begun(work: Path) -> None:
    """Removes what tasks of a killed run had begun."""
    for folder in work.glob("*/.*"):
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
