"""An executor on Apache Beam (extra `beam`): the tasks of a stage become the elements of a pipeline, on any of its runners.

Elements are numbers of tasks; tasks and results go through files under the working folder, which all workers must see (a network
file system on a cluster). What Beam adds is where the tasks run, and that a task that fails is tried again.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def executor(workdir: Path, workers: int, options: Sequence[str] = ()) -> Iterator["Beam"]:
    """Beam with these pipeline options; without any, the local DirectRunner with so many processes."""
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        raise InputError("--beam needs Apache Beam: pip install 'pretrainx[beam]'") from None
    mode = "multi_processing" if workers > 1 else "in_memory"
    chosen = list(options) or ["--runner=DirectRunner", f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    workdir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=workdir, prefix=".beam."))
    try:
        yield Beam(scratch, chosen)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class Beam:
    """Maps by a pipeline each: Create, Reshuffle (so that tasks spread over workers), Map."""

    def __init__(self, scratch: Path, options: Sequence[str]):
        self._scratch, self._options, self._stage = scratch, list(options), 0

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        self._stage += 1
        folder = self._scratch / f"{self._stage:04d}"
        folder.mkdir()
        log(f"{what}: {len(items):,} tasks on Beam")
        options = PipelineOptions(self._options)
        with beam.Pipeline(options=options) as pipeline:
            (pipeline | beam.Create(list(enumerate(items))) | beam.Reshuffle() | beam.Map(_run, function=function, folder=str(folder)))
        found: list[Any] = [files.read_json(folder / f"{index}.json", "result of a Beam task") for index in range(len(items))]
        for value in found:
            if "error" in value:
                raise InputError(value["error"])
        return [value["result"] for value in found]


def _run(element: tuple[int, Any], function: Callable[[Any], Any], folder: str) -> None:
    """Does one task, whose result is a file. Bad input is a result too: to try it again would be of no use."""
    index, item = element
    try:
        value: dict[str, Any] = {"result": json.loads(json.dumps(function(item)))}
    except InputError as error:
        value = {"error": str(error)}
    files.write_json(Path(folder) / f"{index}.json", value)
