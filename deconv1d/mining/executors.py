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
from itertools import islice
from multiprocessing import get_context
from typing import Any

from deconv1d.errors import DependencyError, InputError, ModelError

EXECUTORS = ("serial", "process", "ray")
AHEAD = 2
"""Tasks that wait at each worker, so that none is idle."""
ATTEMPTS = 5
"""So often a task is given out again when the machine it ran on is lost."""

Worker = Callable[[Any], Any]


def run_all(
    executor: str, make: Callable[[], Worker], tasks: Iterable[Any], workers: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Runs tasks and gives each with its result.

    Args:
        executor: "serial", "process" or "ray".
        make: Makes a worker; for other processes it must be picklable.
        tasks: What workers are called with; taken one at a time, as workers become free.
        workers: How many; None: one for each core (GPUs first, on Ray).
    """
    return {"serial": _serial, "process": _in_processes, "ray": _on_ray}[executor](
        make, tasks, workers
    )


def _serial(
    make: Callable[[], Worker], tasks: Iterable[Any], workers: int | None
) -> Iterator[tuple[Any, Any]]:
    worker = make()
    for task in tasks:
        yield task, worker(task)


# --- processes -----------------------------------------------------------------------------------

_worker: Worker | None = None


def _start(make: Callable[[], Worker]) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends its workers
    _worker = make()


def _call(task: Any) -> Any:
    assert _worker is not None
    return _worker(task)


def _in_processes(
    make: Callable[[], Worker], tasks: Iterable[Any], workers: int | None
) -> Iterator[tuple[Any, Any]]:
    count = workers or os.cpu_count() or 1
    # "spawn": a forked process would share locks that a thread of torch's may hold.
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_start, initargs=(make,))
    waiting = iter(tasks)
    try:
        running = {pool.submit(_call, task): task for task in islice(waiting, AHEAD * count)}
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                yield task, future.result()
                for new in islice(waiting, 1):
                    running[pool.submit(_call, new)] = new
    except BrokenProcessPool as error:
        raise ModelError(
            f"A worker process ended without a word: expected {count} to live to the end. Memory "
            f"may have run out: give fewer workers or smaller batches. What is finished is kept; "
            f"run the same command again."
        ) from error
    finally:
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """Ends the workers at once: what they are at would take minutes, and can be done again."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
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


def _on_ray(
    make: Callable[[], Worker], tasks: Iterable[Any], workers: int | None
) -> Iterator[tuple[Any, Any]]:
    ray = import_ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = workers or gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
    remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(_Actor)
    crew = _Crew(ray, lambda: remote.remote(make))
    waiting = iter(tasks)
    for _ in range(count):
        crew.hire()
    for task in islice(waiting, AHEAD * count):
        crew.give(task)
    try:
        while crew.running:
            for task, result in crew.finished():
                yield task, result
                for new in islice(waiting, 1):
                    crew.give(new)
    finally:
        crew.end()


class _Crew:
    """The actors, and which of them is at what. The machine of an actor may be lost at any time."""

    def __init__(self, ray: Any, make: Callable[[], Any]) -> None:
        self._ray, self._make = ray, make
        self._actors: list[Any] = []
        self.running: dict[Any, tuple[Any, Any, int]] = {}

    def hire(self) -> None:
        """Starts one more actor."""
        self._actors.append(self._make())

    def give(self, task: Any, attempt: int = 1) -> None:
        """Gives a task to the actor with the fewest."""
        busy = [actor for _, actor, _ in self.running.values()]
        actor = min(self._actors, key=busy.count)
        self.running[actor.call.remote(task)] = (task, actor, attempt)

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Waits for a task to end; gives tasks of a lost machine to others."""
        ready, _ = self._ray.wait(list(self.running))
        for reference in ready:
            task, actor, attempt = self.running.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except (self._ray.exceptions.RayError, ConnectionError) as error:
                self._replace(actor, error, attempt)
                self.give(task, attempt + 1)
            else:
                yield task, result

    def _replace(self, actor: Any, error: Exception, attempt: int) -> None:
        if attempt >= ATTEMPTS:
            raise ModelError(
                f"A shard was lost {attempt} times: expected a machine that lives to its end, got "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}. Memory may have "
                f"run out: give smaller batches. What is finished is kept; run the same command "
                f"again."
            ) from error
        if actor in self._actors:  # its other tasks come here too
            self._actors.remove(actor)
            self.hire()

    def end(self) -> None:
        """Ends all actors."""
        for actor in self._actors:
            self._ray.kill(actor)


def _cause(error: Exception) -> Exception:
    """What the worker raised."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Exception) else error


def check_workers(workers: Any) -> None:
    """Raises InputError unless it is None or a number above 0."""
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise InputError(
            f"workers={workers!r} cannot be used: expected a whole number above 0. Leave it out "
            f"for one a core."
        )
