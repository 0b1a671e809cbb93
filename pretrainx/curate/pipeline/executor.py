"""Who runs the tasks of a stage: this process, or a pool of processes in which a worker that dies is noticed and its task done again.

An `Executor` maps a function of the module level over tasks and returns the results in the tasks' order. Tasks and results
are small (names of files, counts): what is large goes through files. The second executor is in beam.py.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import Any, Protocol, TypeVar

from pretrainx.core.errors import InputError
from pretrainx.core.logs import log, progress

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 2  # of a task whose worker died: out of memory may have been another program's fault, three times in a row is its own


class Executor(Protocol):
    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]: ...


@contextlib.contextmanager
def local(workers: int, retries: int = RETRIES) -> Iterator[Executor]:
    """This process for one worker, else a pool that ends with the block."""
    if workers <= 1:
        yield InProcess()
        return
    pool = Pool(workers, retries)
    try:
        yield pool
    finally:
        pool.close()


class InProcess:
    """One task after another, here."""

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        return list(progress(map(function, items), len(items), what, "shards"))


class Pool:
    """Processes that are started when there is work, and stay for the next stage.

    Each has a pipe of its own, so that of a process that dies it is known which task it had.
    """

    def __init__(self, workers: int, retries: int = RETRIES):
        self._most, self._retries = workers, retries
        # A fresh interpreter each: a fork would copy threads' locks (NumPy's, zlib's callers') in any state.
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def map(self, function: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        found: dict[int, R] = {}
        for index, value in progress(self._finished(function, items), len(items), what, "shards"):
            found[index] = value
        return [found[index] for index in range(len(items))]

    def close(self) -> None:
        """Ends the workers at once: what they had begun stays begun, and is no result."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def _finished(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
        """(place, result) of each item, as they come."""
        waiting, tries = deque(range(len(items))), [0] * len(items)
        left = len(items)
        while len(self._workers) < min(self._most, len(items)):
            self._workers.append(_Worker(self._context))
        while left:
            for worker in self._workers:
                if worker.item is None and waiting:
                    worker.start(waiting.popleft(), function, items)
            busy = [worker for worker in self._workers if worker.item is not None]
            ready = set(connection.wait([worker.pipe for worker in busy]))
            for worker in busy:
                if worker.pipe not in ready:
                    continue
                index = worker.item
                assert index is not None
                try:
                    kind, value = worker.pipe.recv()
                except (EOFError, OSError):
                    tries[index] += 1
                    self._replace(worker, str(items[index]), tries[index])
                    waiting.appendleft(index)
                    continue
                worker.item = None
                if kind != "done":
                    raise _error(kind, value)
                left -= 1
                yield index, value

    def _replace(self, worker: "_Worker", name: str, tried: int) -> None:
        worker.process.join(5)
        code = worker.process.exitcode
        how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
        hint = "; signal 9 is often the machine running out of memory: fewer --workers need less" if code == -9 else ""
        worker.end()
        said = f"a worker process (pid {worker.process.pid}) ended by {how} while it did {name}{hint}"
        if tried > self._retries:
            raise InputError(f"{said}; that is {tried} times now, so the run stops. What was finished is kept")
        log(f"{said}; the task is done again ({tried} of {self._retries})")
        self._workers[self._workers.index(worker)] = _Worker(self._context)


class _Worker:
    """One process, its pipe, and the place of the item that it has (None: it waits)."""

    def __init__(self, context: Any):
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends when the process does
        self.item: int | None = None

    def start(self, index: int, function: Callable[[T], R], items: Sequence[T]) -> None:
        self.item = index
        # A process that has just died is met again where its answer is awaited.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((function, items[index]))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any) -> None:
    """A worker's life: tasks from the pipe until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    while True:
        try:
            function, item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[str, Any] = ("done", function(item))
        except InputError as error:
            answer = ("input", str(error))
        except OSError as error:
            answer = ("system", (error.errno, error.strerror, error.filename and str(error.filename), traceback.format_exc()))
        except BaseException:
            answer = ("bug", traceback.format_exc())
        pipe.send(answer)


def _die_with_parent() -> None:
    """Ends this process when its parent ends, however that ends: nobody is left to want the result."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _error(kind: str, value: Any) -> Exception:
    """What a task raised in another process, here."""
    if kind == "input":
        return InputError(value)
    if kind == "system" and value[0] is not None:
        number, text, name, _ = value
        return OSError(number, text, name)
    return RuntimeError(f"a task failed:\n{value[-1] if kind == 'system' else value}")
