"""`deconv1d mine`: the top clips of every channel over a data set, into a folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

from deconv1d.cli.options import model_alone, names_of
from deconv1d.cli.sonifiers import load_sonifier
from deconv1d.forward import TAPS
from deconv1d.masks.options import LISTENING
from deconv1d.mining.executors import EXECUTORS
from deconv1d.mining.ranking import SCORES
from deconv1d.seeds import SEEDS


def mine_options(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the clips, what to keep of them, and where it runs."""
    model_alone(parser)
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="SOURCE",
        help="folder, glob, tar file, table of paths (.csv, .parquet) or Parquet of sounds",
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="to write or go on")
    parser.add_argument(
        "--layers", type=names_of, metavar="LIST", help="such as conv5,conv9 (default: all)"
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="for each channel (3)")
    parser.add_argument("--score", choices=SCORES, default="peak", help="what ranks a clip")
    parser.add_argument("--tap", choices=TAPS, default="block", help="where a map is taken")
    parser.add_argument("--method", choices=LISTENING, default="deconvnet", help="of the winners")
    parser.add_argument("--seed", choices=SEEDS, default="activation", help="of the winners")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="let the model hear the winners' sounds and controls (3 forward passes a winner)",
    )
    parser.add_argument(
        "--mask",
        action="store_true",
        help="masked recordings too (64 forward passes a clip, and 8 with gradients a winner)",
    )
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="serial",
        help="this process, several, or a Ray cluster",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="default: one a core, or a GPU")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each worker (1)")
    parser.add_argument("--batch", type=int, metavar="N", help="most clips run at once (16)")
    parser.add_argument(
        "--shard-clips", type=int, metavar="N", help="clips of one unit of work (256 or more)"
    )


def mine_clips(arguments: argparse.Namespace) -> tuple[str, dict[str, object]]:
    """Mines; returns what to say of it, for people and as facts."""
    from deconv1d.mining.run import mine_into

    load = partial(
        load_sonifier,
        arguments.model,
        arguments.weights,
        arguments.sample_rate,
        arguments.device,
        key=arguments.key,
    )
    found = mine_into(
        arguments.output,
        arguments.data,
        load,
        layers=arguments.layers,
        top=arguments.top,
        score=arguments.score,
        tap=arguments.tap,
        method=arguments.method,
        seed=arguments.seed,
        batch=arguments.batch,
        shard_clips=arguments.shard_clips,
        executor=arguments.executor,
        workers=arguments.workers,
        threads=arguments.threads,
        trust=arguments.trust,
        mask=arguments.mask,
        name=_name_of(arguments.model, arguments.weights),
        progress=True,
    )
    return str(found), asdict(found)


def _name_of(factory: str, weights: str | None) -> str:
    """What reports call a model: "nets:speech, best" of nets.py:speech and weights/best.pt."""
    place, _, name = factory.rpartition(":")
    module = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    own = f"{module}:{name}"
    # One factory makes models that differ in their weights alone: side by side both have a name.
    return own if weights is None else f"{own}, {Path(weights).stem}"
