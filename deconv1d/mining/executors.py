"""Where units of work run: in this process, in several, or on the machines of a Ray cluster.

A worker is made once where it runs, with the model; then it is called with one task after another.
Results come in any order. What a worker raises is raised here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol

from deconv1d.errors import DependencyError, ModelError

EXECUTORS = ("serial", "process", "ray")
AHEAD = 2
"""Tasks that wait at each worker, so that none is idle."""
ATTEMPTS = 5
"""So often a task is given out again when the machine it ran on is lost."""

Worker = Callable[[Any], Any]


class Executor(Protocol):
    """Runs tasks; workers are started with the first and live until it is closed."""

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Gives each task with its result; takes tasks as workers become free."""

    def close(self) -> None:
        """Ends the workers."""


def executor_of(name: str, make: Callable[[], Worker], workers: int | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: "serial", "process" or "ray".
        make: Makes a worker; for other processes it must be picklable.
        workers: How many; None: one for each core (GPUs first, on Ray).
    """
    if name == "serial":
        return _Serial(make)
    return _Processes(make, workers) if name == "process" else _Cluster(make, workers)


def end_with_parent() -> None:
    """Ends this worker process as soon as the one that started it is gone, however it went.

    A worker that outlives a killed run waits for tasks for ever, or goes on with its last one
    beside the run that was started again.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


class _Serial:
    """In this process, one task after the other."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._make = make
        self._worker: Worker | None = None

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            # With the first task: a run that has nothing left to do needs no worker.
            self._worker = self._worker or self._make()
            yield task, self._worker(task)

    def close(self) -> None:
        self._worker = None


# --- processes -----------------------------------------------------------------------------------

_worker: Worker | None = None


def _start(make: Callable[[], Worker]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends its workers
    end_with_parent()
    try:
        _worker = make()
    except Exception as error:
        # Raised by its first task: of what fails at its start a pool tells only that it failed.
        _worker = partial(_fail, error)


def _fail(error: Exception, task: Any) -> None:
    raise error


def _call(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)


class _Processes:
    """In processes of this machine."""

    def __init__(self, make: Callable[[], Worker], workers: int | None) -> None:
        self._count = workers or os.cpu_count() or 1
        # "spawn": a forked process would share locks that a thread of torch's may hold.
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(self._count, context, initializer=_start, initargs=(make,))

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = iter(tasks)
        try:
            running = {self._pool.submit(_call, t): t for t in islice(waiting, AHEAD * self._count)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    task = running.pop(future)
                    yield task, future.result()
                    for new in islice(waiting, 1):
                        running[self._pool.submit(_call, new)] = new
        except BrokenProcessPool as error:
            raise ModelError(
                f"A worker process ended without a word: expected {self._count} to live to the "
                f"end. The model may not load there, or memory ran out: give fewer workers or "
                f"smaller batches. What is finished is kept; run the same command again."
            ) from error

    def close(self) -> None:
        # At once: what they are at would take minutes, and can be done again.
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


# --- Ray -----------------------------------------------------------------------------------------


def import_ray() -> Any:
    """The module ray.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            f"Clips cannot be mined on a cluster: expected ray, got {error}. Install it: pip "
            f"install 'deconv1d[ray]', or give --executor process."
        ) from error
    return ray


class _Actor:
    """A worker on a machine of the cluster."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        self._worker = make()

    def call(self, task: Any) -> Any:
        """Runs one task."""
        return self._worker(task)


class _Cluster:
    """Actors on the machines of a Ray cluster, any of which may be lost at any time."""

    def __init__(self, make: Callable[[], Worker], workers: int | None) -> None:
        self._ray = import_ray()
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False)
        resources = self._ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._count = workers or gpus or max(1, int(resources.get("CPU", 1)))
        remote = self._ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Actor)
        self._hire: Callable[[], Any] = partial(remote.remote, make)
        self._actors: list[Any] = []
        self._running: dict[Any, tuple[Any, Any, int]] = {}

    def run(self, tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        waiting = iter(tasks)
        while len(self._actors) < self._count:
            self._actors.append(self._hire())
        for task in islice(waiting, AHEAD * self._count):
            self._give(task, attempt=1)
        while self._running:
            for task, result in self._finished():
                yield task, result
                for new in islice(waiting, 1):
                    self._give(new, attempt=1)

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

    def _give(self, task: Any, *, attempt: int) -> None:
        """Gives a task to the actor with the fewest."""
        # Not in turn: a new actor, or one with short clips, is free before the others.
        busy = [actor for _, actor, _ in self._running.values()]
        actor = min(self._actors, key=busy.count)
        self._running[actor.call.remote(task)] = (task, actor, attempt)

    def _finished(self) -> Iterator[tuple[Any, Any]]:
        """Waits for a task to end; gives the tasks of a lost machine to others."""
        ready, _ = self._ray.wait(list(self._running))
        for reference in ready:
            task, actor, attempt = self._running.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except self._ray.exceptions.RayError as error:
                self._replace(actor, error, attempt)
                self._give(task, attempt=attempt + 1)
            else:
                yield task, result

    def _replace(self, actor: Any, error: Exception, attempt: int) -> None:
        if (cause := _cause(error)) is not error:  # it could not even be made
            raise cause from error
        if attempt >= ATTEMPTS:
            why = " ".join(str(error).split())[:300]
            raise ModelError(
                f"A shard was lost {attempt} times: expected a machine that lives to its end, got "
                f"{type(error).__name__}: {why}. Memory may have run out: give smaller batches. "
                f"What is finished is kept; run the same command again."
            ) from error
        # The actor's other tasks fail as well and come here: it is replaced once.
        if actor in self._actors:
            self._actors[self._actors.index(actor)] = self._hire()


def _cause(error: Exception) -> Exception:
    """What the worker raised."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error
