"""One full-width run of both regimes where a GPU is at hand.

    python -m reference_models.gpu_run pack cache/arabic --out packed/arabic
    python -m reference_models.gpu_run train packed/arabic --out runs/full-width

`pack` makes one file of a cache, small enough to be moved to another machine in one piece (9,000
clips of a second: 48 MB, or with `--bits 10` 33 MB). `train` needs nothing but that folder and a
GPU: CNN12 at full width, supervised for 50 epochs (79 seconds on an H200 that tests shared) and by
SimCLR, then a fitted probe on every block of both and of untrained encoders. Everything it finds
is in `results.json`. Killed, it goes on where it was when started again.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from reference_models import simclr, supervised
from reference_models.augment import AUGMENTATIONS
from reference_models.checkpoint import load_encoder, write_json
from reference_models.data import SAMPLE_RATE, Clip, ClipIndex, ClipSet, build_cache, open_cache
from reference_models.experiments.study import DRAWS
from reference_models.probing import probe_blocks, untrained

BITS = 12  # of each sample that `pack` keeps: its noise is 77 dB below the peak of every clip

SUPERVISED = supervised.Settings(
    batch_size=128,
    epochs=50,
    warmup_epochs=5,
    augmentations=tuple(AUGMENTATIONS),
    keep_every=50,
    sonify_every=0,
)
CONTRASTIVE = replace(
    simclr.PRESETS["arabic-commands"],
    width=1.0,
    batch_size=300,  # all that a speaker of Arabic Commands says
    epochs=60,
    warmup_epochs=6,
    keep_every=60,
)


def pack(clips: ClipSet, folder: str | Path, *, bits: int = BITS) -> Path:
    """Writes all usable clips of a cache, one after the other, into one FLAC file.

    Args:
        clips: The cache.
        folder: Where `waveforms.flac` and `index.parquet` go; made if missing.
        bits: Of each sample that are kept, 2 to 16. The rest is zero, for which FLAC takes no
            space.

    Returns:
        The path of the FLAC file.
    """
    largest, step = 2 ** (bits - 1) - 1, 2 ** (16 - bits)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, start, packed = folder / "waveforms.flac", 0, []
    usable = (clip for clip in clips.index.clips if clip.status == "ok")
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
        for number, clip in enumerate(usable):
            samples = np.round(clips.waveform(number).numpy() * largest) * step
            file.write(samples.astype(np.int16))
            packed.append(clip._replace(path=path.name, start=start, status="unread"))
            start += clip.frames
    replace(clips.index, clips=tuple(packed)).save(folder / "index.parquet")
    return path


def unpack(folder: str | Path, cache: str | Path) -> ClipSet:
    """Returns the clips that `pack` wrote, in a cache of their own.

    Args:
        folder: Of `pack`.
        cache: Folder of the cache; made if missing, used if it is finished.
    """
    folder = Path(folder)
    if not (folder / "waveforms.flac").exists():
        raise FileNotFoundError(
            f"no packed clips in '{folder}': looked for 'waveforms.flac'; make them by "
            "`python -m reference_models.gpu_run pack CACHE --out FOLDER`"
        )
    if (Path(cache) / "index.parquet").exists():
        return open_cache(cache)
    samples, _ = soundfile.read(folder / "waveforms.flac", dtype="float32")

    def read(clip: Clip) -> np.ndarray:
        return samples[clip.start : clip.start + clip.frames]

    return build_cache(ClipIndex.load(folder / "index.parquet"), cache, read=read)


def train(
    clips: ClipSet,
    folder: str | Path,
    *,
    own: supervised.Settings = SUPERVISED,
    contrastive: simclr.Settings = CONTRASTIVE,
    device: str = "cuda",
) -> dict[str, Any]:
    """Trains both regimes, probes them beside untrained encoders, and writes `results.json`.

    Args:
        clips: What both are trained and probed on.
        folder: Where everything goes.
        own: The supervised run's settings.
        contrastive: SimCLR's; of the same width.
        device: Where everything runs.

    Returns:
        What `results.json` holds: "device", "seconds" (of all calls), for "supervised" and
        "contrastive" the result of the run and the "probes" by block, and these for "untrained-s0"
        and so on.
    """
    folder, started = Path(folder), time.monotonic()
    torch.backends.cudnn.benchmark = True  # crops have one length
    path = folder / "results.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    before = found.get("seconds", 0)

    def save(**more: Any) -> None:
        found.update(more, seconds=round(before + time.monotonic() - started, 1))
        write_json(path, found)

    found |= {"device": _named(device), "torch": torch.__version__}
    runs = {"supervised": (supervised, own), "contrastive": (simclr, contrastive)}
    for regime, (program, settings) in runs.items():
        result = program.train(clips, settings, folder / regime, device=device)
        if regime in found:
            continue
        weights = folder / regime / f"epoch-{settings.epochs:03d}.safetensors"
        probes = probe_blocks(load_encoder(weights).to(device), clips)
        save(**{regime: result | {"probes": probes}})
    for draw in range(DRAWS):
        if (name := f"untrained-s{draw}") not in found:
            encoder = untrained(own.width, draw).to(device)
            save(**{name: {"probes": probe_blocks(encoder, clips)}})
    save()
    return json.loads(path.read_text())


def _named(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else platform.processor() or device


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says; a user's error ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.gpu_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=("pack", "train"))
    parser.add_argument("folder", type=Path, help="pack: a cache; train: what pack wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--bits",
        type=int,
        default=BITS,
        choices=range(2, 17),
        metavar="N",
        help="pack: of each sample that are kept, 2 to 16; default: %(default)s",
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--width", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help="of both runs, to try it out")
    given = parser.parse_args(argv)
    try:
        if given.task == "pack":
            path = pack(open_cache(given.folder), given.out, bits=given.bits)
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
            return
        train(
            unpack(given.folder, given.out / "cache"),
            given.out,
            own=_asked(SUPERVISED, given),
            contrastive=_asked(CONTRASTIVE, given),
            device=given.device,
        )
        print(given.out / "results.json")
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _asked(settings: Any, given: argparse.Namespace) -> Any:
    """The settings with the command line's width and epochs; bfloat16 where there is a GPU."""
    epochs = given.epochs or settings.epochs
    warmup = settings.warmup_epochs * epochs / settings.epochs
    changed = {"width": given.width, "epochs": epochs, "keep_every": epochs}
    return replace(settings, bfloat16=given.device == "cuda", warmup_epochs=warmup, **changed)


if __name__ == "__main__":
    main(sys.argv[1:])
