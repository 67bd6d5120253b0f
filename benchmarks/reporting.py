"""What every benchmark needs: interleaved timing, and a generated page with versions and date."""

from __future__ import annotations

import datetime
import importlib.metadata
import multiprocessing
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent


def interleaved(runs: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Median seconds of each run, taken in turns so that all meet the same machine.

    Every other turn goes backwards: what a run leaves behind, such as warm memory, then serves
    each of the others as often.

    Args:
        runs: What to time, by name; each runs once before.
        rounds: How many turns.
    """
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in list(runs.items())[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def in_a_process(work: Callable[..., None], *arguments: Any) -> Any:
    """What `work(results, *arguments)` puts into its queue, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Any] = context.Queue()
    worker = context.Process(target=work, args=(results, *arguments))
    worker.start()
    found = results.get()
    worker.join()
    return found


def peak_memory() -> float:
    """The most memory that this process ever had, in MiB.

    Not by `getrusage` on Linux: there a process begins with the peak of the one that started it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        scale = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(kib) / 2**10


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def made_with(packages: Sequence[str]) -> str:
    """The line below what was measured: the date, the machine, and versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}"
    return f"{datetime.date.today()}; {machine}; {versions}."


def write_page(path: Path, title: str, command: str, body: str, packages: Sequence[str]) -> None:
    """Writes a generated page: title, the command that writes it, body, versions and date."""
    page = f"# {title}\n\nWritten by `{command}`.\n\n{body}\n\n{made_with(packages)}\n"
    path.write_text(page, encoding="utf-8")
    print(page)
