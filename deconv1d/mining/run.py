"""Mines whole data sets into a folder: plans, runs shards, merges them, sonifies the winners."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deconv1d.audio import write_whole
from deconv1d.errors import InputError, check_word
from deconv1d.forward import TAPS
from deconv1d.masks.options import LISTENING, MASK, check_sonify_options
from deconv1d.mining import findings
from deconv1d.mining.begin import Asked, begun, locked
from deconv1d.mining.executors import EXECUTORS, executor_of
from deconv1d.mining.mine import check_count
from deconv1d.mining.mined import import_parquet
from deconv1d.mining.plan import Plan
from deconv1d.mining.ranking import SCORES
from deconv1d.mining.work import Work
from deconv1d.mining.worker import PlanWorker
from deconv1d.seeds import SEEDS
from deconv1d.sonify import Sonifier
from deconv1d.table import printable

COUNTED = {
    "top": "how many clips to keep for each channel",
    "batch": "how many clips to run at once",
    "shard_clips": "how many clips make a shard",
    "threads": "how many threads torch has in each worker",
    "workers": "how many workers to start",
}
"""What the numbers among the arguments of `mine_into` say."""


@dataclass(frozen=True)
class Found:
    """What a run of mining ended in.

    Attributes:
        out: The folder.
        clips: How many were used.
        errors: How many could not be used.
        winners: How many rows winners.parquet has.
        one_by_one: Why clips were not run in batches; None: they were.
    """

    out: str
    clips: int
    errors: int
    winners: int
    one_by_one: str | None

    def __str__(self) -> str:
        bad = f", {self.errors} could not be used (errors.parquet)" if self.errors else ""
        slow = f"\nOne clip at a time: {self.one_by_one}" if self.one_by_one else ""
        return f"{self.winners} winners among {self.clips} clips in {self.out}{bad}{slow}"


def mine_into(
    out: str | Path,
    sources: Sequence[str],
    load: Callable[[], Sonifier],
    *,
    layers: Sequence[str] | None = None,
    top: int = 3,
    score: str = "peak",
    tap: str = "block",
    method: str = "deconvnet",
    seed: str = "activation",
    batch: int | None = None,
    shard_clips: int | None = None,
    executor: str = "serial",
    workers: int | None = None,
    threads: int = 1,
    trust: bool = False,
    mask: bool = False,
    name: str | None = None,
    progress: bool = False,
) -> Found:
    """The top clips of every channel over a data set, and their sonifications, in a folder.

    What the folder holds is said in `deconv1d.mining.findings`. It is the same to the last byte
    whatever the executor, the number of workers and the size of the shards. A run that was broken
    off goes on by the same call, and loses at most the shards that it was at.

    Args:
        out: The folder; it is made, or is of an earlier run of the same plan.
        sources: As for `deconv1d.mining.sources.list_clips`.
        load: Makes the sonifier, with its sample rate; for another executor than "serial" it must
            be picklable, such as a function of a module or a `functools.partial` of one.
        layers: Each as for `Sonifier.sonify`; None: all, each block once.
        top: How many clips to keep for each channel.
        score: "peak" or "mean", as for `mine`.
        tap: As for `Sonifier.sonify`.
        method: As for `Sonifier.sonify`, of the winners; "mask" too.
        seed: The same: "activation", "ones" or "peak".
        batch: Most clips to run at once; None: 16, or 1 where the model does not admit batches.
        shard_clips: How many clips make a shard; None: chosen by their number.
        executor: "serial", "process" (one machine) or "ray" (a cluster).
        workers: How many, not for "serial"; None: one a core, or a GPU.
        threads: Of torch, in each worker. The last bits of a value may depend on it, so that it is
            part of the plan. One a core with executor "process" is as fast as torch gets.
        trust: Whether the model hears each sonification, one of a random map and one of permuted
            weights, and the table says how far to trust it; three forward passes a winner.
        mask: Whether each winner is also heard through a mask, as by `method="mask"`: 64 forward
            passes a clip, and three forward and backward passes a winner.
        name: What reports call the model; None: the name of its class.
        progress: Whether to show bars with the remaining time; off a terminal they are lines.

    Raises:
        InputError: If an argument cannot be used, no clip can be used, two have one id, or the
            folder is of another plan.
        ModelError, LayerError, PathError: As for `Sonifier.sonify`.
        FileError: If a source cannot be listed, or a file cannot be written.
        DependencyError: If pyarrow or filelock is not installed; or ray, for executor "ray".
    """
    words = (("score", score, SCORES), ("tap", tap, TAPS), ("method", method, LISTENING))
    for option, word, known in (*words, ("seed", seed, SEEDS), ("executor", executor, EXECUTORS)):
        check_word(option, word, known)
    if method == MASK:
        check_sonify_options(seed, None)
    counts = {"top": top, "batch": batch, "shard_clips": shard_clips, "threads": threads}
    for option, number in (*counts.items(), ("workers", workers)):
        if number is not None:
            check_count(option, number, COUNTED[option])
    folder = Path(out)
    asked = Asked(layers, top, score, tap, method, seed, batch, shard_clips, threads, trust, mask)
    # The lock first: to load a model may take minutes, in which another run might begin.
    with locked(folder):
        sonifier = load()
        plan, about, why = begun(folder, sources, sonifier, asked, progress)
        # In this process the model is there already; a factory may make other weights each time.
        make = (lambda: sonifier) if executor == "serial" else load
        crew = executor_of(executor, partial(PlanWorker, make, plan), workers)
        before = torch.get_num_threads()
        try:
            rows, used, errors = _done(Work(folder, plan, crew, progress))
        finally:
            crew.close()
            torch.set_num_threads(before)  # a worker in this process has set its own number
        called = name or type(sonifier.model).__name__
        _write_findings(folder, plan, called, about, rows, errors)
        return Found(str(out), used, len(errors), len(rows), why)


def _done(work: Work) -> tuple[list[dict[str, Any]], int, dict[str, str]]:
    """The rows of winners.parquet, how many clips were used, and what is wrong with others."""
    rankings, used, errors = work.mined()
    if not used:
        raise InputError(
            f"No clip could be used: expected at least one, got {work.plan.clips} that fail. The "
            f"first: {next(iter(errors.values()))}"
        )
    return work.heard(rankings, errors), used, errors


def _write_findings(
    out: Path,
    plan: Plan,
    model: str,
    about: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    errors: dict[str, str],
) -> None:
    folders = findings.folders_of(plan.layers)
    facts = {
        "model": model,
        "sample_rate": plan.sample_rate,
        "score": plan.score,
        "tap": plan.tap,
        "method": plan.method,
        "top": plan.top,
        "clips": plan.clips,
        "layers": [{**layer, "folder": folders[layer["layer"]]} for layer in about],
    }
    # A reason may quote a path; a string column of Parquet holds valid Unicode alone.
    bad = [{"clip": c, "reason": printable(why)} for c, why in sorted(errors.items())]
    rows = [{**row, "layer": printable(row["layer"])} for row in rows]
    columns = {"clip": "string", "reason": "string"}
    _write_table(out / findings.ERRORS_FILE, bad, columns)
    _write_table(out / findings.WINNERS_FILE, rows, findings.WINNERS)
    # Last: readers take it for the sign that the tables are there.
    write_whole(out / findings.LAYERS, json.dumps(facts, indent=1).encode())


def _write_table(path: Path, rows: list[dict[str, Any]], columns: dict[str, str]) -> None:
    arrow, parquet = import_parquet()
    table = arrow.Table.from_pylist(rows, arrow.schema(list(columns.items())))
    # In memory first, so that the file takes its place at once and whole.
    content = arrow.BufferOutputStream()
    parquet.write_table(table, content)
    write_whole(path, content.getvalue().to_pybytes())
