"""The winners' sonifications: each clip is run once, whatever the number of its winners."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from deconv1d.audio import Samples, as_samples, encode_audio
from deconv1d.channels import chunk_of
from deconv1d.errors import Deconv1dError, InputError, SilenceWarning
from deconv1d.layers.axes import layout_of
from deconv1d.layers.maps import map_of
from deconv1d.mining.decoding import decoded
from deconv1d.mining.findings import folders_of, input_path, sound_path
from deconv1d.mining.plan import Plan
from deconv1d.mining.sources import Clip
from deconv1d.mirror import mirror
from deconv1d.record.capture import Capture
from deconv1d.record.waveform import as_waveform
from deconv1d.sonification import Sonification
from deconv1d.sonify import Sonifier
from deconv1d.sounding import ReachedMap, sonify_map

Place = tuple[str, int, int]
"""Layer, channel, rank."""
SUBTYPE = "PCM_16"
"""Enough to listen to; 24 bits take twice the disk."""


@dataclass(frozen=True)
class Heard:
    """What is written for some clips.

    Attributes:
        rows: By (layer, channel, rank): coherence, gain and paths, as in winners.parquet.
        files: Sound files, by their path in the folder.
        errors: By clip, why it could not be heard again.
    """

    rows: dict[Place, dict[str, Any]]
    files: dict[str, bytes]
    errors: dict[str, str]

    def to_json(self, plan: str) -> bytes:
        """All but the sounds.

        Args:
            plan: Its SHA-256.
        """
        rows = [[*place, row] for place, row in self.rows.items()]
        return json.dumps({"plan": plan, "rows": rows, "errors": self.errors}).encode()


class Listener:
    """Sonifies winners; made once in each worker.

    Args:
        sonifier: Of the plan's model.
        plan: What is asked for.
    """

    def __init__(self, sonifier: Sonifier, plan: Plan) -> None:
        self.plan, self._sonifier = plan, sonifier
        self._folders = folders_of(plan.layers)

    def __call__(self, task: tuple[int, Sequence[tuple[Clip, Sequence[Place]]]]) -> Heard:
        """What is heard in some clips.

        Args:
            task: A number, and the clips with the places that they won.
        """
        heard = Heard({}, {}, {})
        places = {clip.clip: won for clip, won in task[1]}
        for group in decoded([clip for clip, _ in task[1]], self.plan.sample_rate, 2):
            for clip, waveform in group:
                try:
                    if isinstance(waveform, Exception):
                        raise waveform
                    self._hear(clip.clip, waveform, places[clip.clip], heard)
                except Deconv1dError as error:
                    heard.errors[clip.clip] = str(error)
        return heard

    def _hear(self, clip: str, waveform: Samples, places: Sequence[Place], heard: Heard) -> None:
        won: dict[str, list[tuple[int, int]]] = {}
        for layer, channel, rank in places:
            won.setdefault(layer, []).append((channel, rank))
        heard.files[input_path(clip)] = _flac(waveform, self.plan.sample_rate)
        for sonification in self._sonifications(
            waveform, {layer: [channel for channel, _ in pairs] for layer, pairs in won.items()}
        ):
            layer = sonification.layer
            gains = sonification.gain.tolist()
            coherences = _coherences(sonification)
            for place, sound, gain, coherence in zip(
                won[layer], sonification.waveform, gains, coherences, strict=True
            ):
                path = sound_path(self._folders[layer], *place)
                heard.files[path] = _flac(sound, self.plan.sample_rate)
                heard.rows[(layer, *place)] = {
                    "coherence": coherence,
                    "gain": gain,
                    "path": path,
                    "input_path": input_path(clip),
                }

    def _sonifications(
        self, waveform: Samples, channels: Mapping[str, list[int]]
    ) -> list[Sonification]:
        """One for each layer, of all its channels that won, from one forward pass."""
        names = list(channels)
        captured, layers = self._sonifier.forward_pass.run_through(
            waveform, names, tap=self.plan.tap, method=self.plan.method
        )
        found = []
        for name, layer, node in zip(names, layers, captured.taps, strict=True):
            assert node is not None  # `run_through` raises if it is
            with warnings.catch_warnings():  # the gain of a silent one is 0
                warnings.simplefilter("ignore", SilenceWarning)
                reached = self._reached(replace(captured, taps=(node,)), layer, node, waveform)
                found.append(
                    sonify_map(
                        reached,
                        channel=channels[name],
                        seed=self.plan.seed,
                        sample_rate=self.plan.sample_rate,
                    )
                )
        return found

    def _reached(self, captured: Capture, layer: str, node: Node, waveform: Samples) -> ReachedMap:
        deconvnet = mirror(captured, rules=captured.rules, method=captured.method)
        return ReachedMap(
            layer=layer,
            tap=self.plan.tap,
            waveform=as_waveform(waveform),
            activation=map_of(captured),
            layout=layout_of(captured, node),
            carry_back=deconvnet,
            steps=deconvnet.steps,
            chunk=chunk_of(captured),
        )


def _coherences(sonification: Sonification) -> list[float | None]:
    try:
        found: list[float | None] = sonification.coherence().tolist()
    except InputError:  # too short for two segments
        return [None] * len(sonification.gain)
    return found


def _flac(sound: Samples | Tensor, rate: int) -> bytes:
    """A FLAC file; a sound beyond full scale, as MP3 files may hold, is scaled to it."""
    samples = as_samples(sound)
    peak = np.abs(samples).max()
    return encode_audio(samples / max(peak, 1), rate, file_format="FLAC", subtype=SUBTYPE)
