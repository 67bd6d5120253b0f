"""A small folder as `deconv1d mine` writes it, for tests of what reads it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from deconv1d import Sonifier
from deconv1d.audio import write_audio
from deconv1d.mining import mine


def clips_of(*names: str, samples: int = 8000, rate: int = 8000) -> dict[str, torch.Tensor]:
    """Tones that rise in frequency from clip to clip, each with a little noise."""
    time = torch.arange(samples) / rate
    generator = torch.Generator().manual_seed(0)
    found = {}
    for place, name in enumerate(names):
        tone = torch.sin(2 * torch.pi * (200 + 350 * place) * time) * (time > 0.3 * samples / rate)
        found[name] = 0.4 * tone + 0.05 * torch.randn(samples, generator=generator)
    return found


def write_mined(
    folder: Path,
    sonifier: Sonifier,
    clips: dict[str, torch.Tensor],
    layers: list[str],
    *,
    name: str = "network",
    k: int = 3,
    channels: int = 4,
    more: bool = True,
) -> Path:
    """Mines the clips and writes winners, their sounds and the tables."""
    rate, folder = sonifier.sample_rate, Path(folder)
    found = mine(sonifier, clips.items(), layers=layers, k=k)
    (folder / "inputs").mkdir(parents=True)
    paths = {clip: f"inputs/{place}.flac" for place, clip in enumerate(clips)}
    for clip, path in paths.items():
        write_audio(folder / path, clips[clip], rate)
    rows = []
    for row in found.rows:
        if row.channel >= channels:
            continue
        x = clips[row.clip]
        heard = sonifier.sonify(x, layer=row.layer, channel=row.channel)
        files = {"": heard.waveform}
        if more:
            files |= {"-mask": 0.5 * x, "-control": x.flip(0)}
        place = f"sounds/{row.layer}/{row.channel}-{row.rank}"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        for ending, sound in files.items():
            write_audio(folder / f"{place}{ending}.flac", sound / max(1, sound.abs().max()), rate)
        rows.append(
            {
                "clip": row.clip,
                "layer": row.layer,
                "channel": row.channel,
                "rank": row.rank,
                "value": row.value,
                "position": row.position,
                "first_sample": row.start_sample,
                "last_sample": row.end_sample,
                "coherence": float(np.random.default_rng(row.channel).uniform()),
                "identified": None if row.channel == 1 else 0.2 * (row.channel + 1),
                "gain": float(heard.gain),
                "path": f"{place}.flac",
                "input_path": paths[row.clip],
                "mask_path": f"{place}-mask.flac" if more else None,
                "control_path": f"{place}-control.flac" if more else None,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "winners.parquet")
    table = {row.name: row for row in sonifier.layers(next(iter(clips.values())))}
    about = [
        {
            "layer": layer,
            "channels": table[layer].channels,
            "hop": float(table[layer].hop or 0),
            "receptive_field": table[layer].receptive_field,
        }
        for layer in found.settings.layers
    ]
    facts = {"model": name, "sample_rate": rate, "clips": len(clips), "layers": about}
    (folder / "layers.json").write_text(json.dumps(facts))
    (folder / "plan.json").write_text(json.dumps({"weights": found.settings.weights}))
    return folder
