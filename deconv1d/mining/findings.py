r"""The folder that `deconv1d mine` writes, for reports, notebooks and other programs to read.

    out/
      plan.json          what was asked for: hashes of the model and of the clips, the settings
      clips.parquet      which clips there are and where each lies; one row group a shard
      shards/*.parquet   what each shard of clips gave; needed to go on after a break
      heard/*.json       the sonifications of some of the winners' clips; needed as well
      layers.json        {"model", "sample_rate", "score", "tap", "method", "top", "clips": number,
                          "layers": [{"layer", "type", "channels", "hop", "receptive_field",
                                      "folder"}]}; hop and receptive field in samples, or null
                          where a value reads all of the clip
      winners.parquet    one row for each place in each channel's ranking, see `WINNERS`
      errors.parquet     clip, reason: the clips that could not be used
      sounds/<folder>/<channel>-<rank>.flac    the winners' sonifications; with "-mask" and
                                               "-control" at the end their other sounds
      inputs/<hash>.flac                       the clips that they are of, at the model's rate; of
                                               long clips <hash>-<first sample>.flac, stretches

A layer's `folder` is its name, with "_" for what does not belong into the name of a file.
`layers.json`, `winners.parquet` and `errors.parquet` are written last: where they are, mining has
ended. Ids of clips are any text: they may hold line ends and HTML. A table holds valid UTF-8 alone:
of other names, of files or of layers, the odd bytes or halves of characters stand there as escapes,
such as "caf\xe9.wav"; the names of layers in layers.json are the model's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deconv1d.errors import FileError
from deconv1d.mining.mined import import_parquet, readable

PLAN, CLIPS, LAYERS = "plan.json", "clips.parquet", "layers.json"
WINNERS_FILE, ERRORS_FILE = "winners.parquet", "errors.parquet"
SHARDS, HEARD, SOUNDS, INPUTS = "shards", "heard", "sounds", "inputs"

WINNERS = {
    "clip": "string",  # its id
    "layer": "string",  # full name
    "channel": "int64",
    "rank": "int64",  # 0 for the best
    "value": "float64",  # by which it was ranked
    "position": "int64",  # index in time of the map's strongest moment
    "first_sample": "int64",  # that this moment reads, in the clip at the model's rate
    "last_sample": "int64",  # that it reads
    "coherence": "float64",  # of the sonification with the clip; null: too short, or not heard
    # The next five with `--trust`; null where the channel is not active on the clip.
    "response": "float64",  # its activation on the sonification over that on the clip, at one RMS
    "identified": "float64",  # 1: more than its rivals on the sonification, relative to the clip
    "control_margin": "float64",  # `response` minus that to the sonification of a random map
    "permuted_margin": "float64",  # `response` minus that to one of permuted weights
    "sentence": "string",  # what a control card says of these
    "gain": "float64",  # what the raw sonification was multiplied by; 0: silent; null: not heard
    "path": "string",  # of the sonification, relative to the folder; null: not heard
    "input_path": "string",  # of the clip, in the same way
    "mask_path": "string",  # of the masked recording; null: not asked for, or the clip is too short
    "control_path": "string",  # of the sonification of a random map; null: not asked for
    "sounds_from": "int64",  # first sample of the clip that its sounds hold: 0 but in long clips
}
"""The columns of winners.parquet and their Arrow types; nulls are allowed from `coherence` on."""


def folders_of(layers: Iterable[str]) -> dict[str, str]:
    """The name of each layer's folder in `sounds/`.

    Args:
        layers: Their full names.
    """
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for layer in layers:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", layer.replace(".", "-"))[:80] or "_"
        # "conv#1" and "conv/1" would share a folder; so would names that differ in case alone on
        # some disks.
        if name.lower() in taken:
            name += "-" + hashlib.sha256(layer.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        taken.add(name.lower())
        folders[layer] = name
    return folders


def input_path(clip: str) -> str:
    """Where the sound of a clip lies, relative to the folder."""
    return f"{INPUTS}/{hashlib.sha256(clip.encode()).hexdigest()[:20]}.flac"


def sound_path(folder: str, channel: int, rank: int, kind: str = "") -> str:
    """Where a sonification, or another sound of a winner, lies, relative to the folder."""
    return f"{SOUNDS}/{folder}/{channel}-{rank}{kind}.flac"


def read_winners(out: str | Path) -> Any:
    """The table of winners, a `pyarrow.Table` with the columns of `WINNERS`.

    Args:
        out: The folder that `deconv1d mine` wrote.

    Raises:
        FileError: If it holds no finished table.
        DependencyError: If pyarrow is not installed.
    """
    return _table(out, WINNERS_FILE, list(WINNERS))


def read_errors(out: str | Path) -> Any:
    """The clips that could not be used, a `pyarrow.Table` with the columns clip and reason."""
    return _table(out, ERRORS_FILE, ["clip", "reason"])


def read_layers(out: str | Path) -> dict[str, Any]:
    """What layers.json holds; see the top of this module.

    Raises:
        FileError: If it is missing or damaged.
    """
    path = Path(out) / LAYERS
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unfinished(path, error) from error
    return facts


def _table(out: str | Path, name: str, columns: list[str]) -> Any:
    arrow, parquet = import_parquet()
    path = Path(out) / name
    try:
        return parquet.read_table(readable(path), columns=columns).select(columns)
    except (OSError, arrow.ArrowException, KeyError) as error:
        raise _unfinished(path, error) from error


def _unfinished(path: Path, error: Exception) -> FileError:
    return FileError(
        f"{str(path)!r} cannot be read: expected the folder of a finished `deconv1d mine`, got "
        f"{type(error).__name__}: {error}. Give its -o folder, or run the same command again: it "
        f"goes on where it was."
    )
