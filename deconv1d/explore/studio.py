"""What the live page computes: clips in, facts and sounds out. It knows nothing of the web."""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconv1d.audio import read_audio
from deconv1d.channels import means
from deconv1d.errors import Deconv1dError, FileError, InputError
from deconv1d.layers.table import each_map_once
from deconv1d.masks.hearing import Hearing
from deconv1d.masks.listen import listen
from deconv1d.masks.options import LISTENING, MASK, RIVALS
from deconv1d.masks.survey import Survey, surveys_of
from deconv1d.report.sounds import player_sounds, speed_of
from deconv1d.sonification import Sonification, needed_rate
from deconv1d.sonify import Sonifier
from deconv1d.sounding import to_peak_of
from deconv1d.table import printable

LARGEST_CLIP = 25 * 2**20  # bytes; explore.js refuses the same before it sends anything
MOST_SECONDS = 60
CLIPS_KEPT = 8
"""So many clips are remembered; an older one is forgotten."""
LONGEST_WAIT = 1.0  # seconds of processor time; a click waits no longer for what nobody asked for

Facts = dict[str, Any]


@dataclass
class Clip:
    """A clip and what the model makes of it.

    Attributes:
        waveform: (time,), at the model's rate.
        layers: By name, the mean activation of each channel.
        survey: What masks of all its channels have in common; None: not begun.
    """

    waveform: Tensor
    layers: Mapping[str, Tensor]
    survey: Survey | None = None


class Studio:
    """Listens to clips with one model, one request at a time.

    Args:
        sonifier: Of the model, with its sample rate.
    """

    def __init__(self, sonifier: Sonifier) -> None:
        self.rate = needed_rate(sonifier.sample_rate, "a live page")
        # Above all locks of the sonifier; their order stands in `deconv1d.explore.server`.
        self._sonifier, self._lock = sonifier, threading.Lock()
        self._clips: OrderedDict[str, Clip] = OrderedDict()

    def take(self, content: bytes) -> Facts:
        """Takes a sound file that was sent; returns what the page shows of it.

        Args:
            content: All of the file.

        Raises:
            Deconv1dError: If it is no sound file, is too long, or the model cannot take it.
        """
        # A name of ours in a folder of ours: nothing that a browser sends gets into a path.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "clip")
            file.write_bytes(content)
            try:
                return self.take_file(file)
            except FileError as error:
                raise FileError(str(error).replace(repr(str(file)), "The clip")) from None

    def take_file(self, path: str | Path) -> Facts:
        """As `take`, of a file on this machine; the page shows its name."""
        import soundfile

        # Before it is decoded: 25 MiB of FLAC may hold days of silence, which fill the memory.
        try:
            seconds = soundfile.info(str(path)).duration
        except Exception:  # `read_audio` says what is wrong with the file
            seconds = 0.0
        if seconds > MOST_SECONDS:
            raise InputError(
                f"The clip is too long for a live page: expected {MOST_SECONDS} seconds at most, "
                f"got {seconds:.0f}. Cut it, or use `deconv1d sonify`."
            )
        samples, _ = read_audio(path, self.rate)
        return self._add(torch.from_numpy(samples)) | {"name": printable(Path(path).name)}

    def _add(self, waveform: Tensor) -> Facts:
        with self._lock:
            names = each_map_once(self._sonifier.layers(waveform), "block")
            maps = self._sonifier.all_maps(waveform, layers=names)
            layers = {found.layer: means(found.maps)[0].float().cpu() for found in maps}
            key = secrets.token_hex(8)
            self._clips[key] = Clip(waveform, layers)
            while len(self._clips) > CLIPS_KEPT:
                self._clips.popitem(last=False)
        return {
            "clip": key,
            "seconds": len(waveform) / self.rate,
            "layers": [
                # As many digits as the menu shows: a wide network has thousands of channels.
                {"name": name, "activations": [float(f"{v:.3g}") for v in values.tolist()]}
                for name, values in layers.items()
            ],
            "methods": LISTENING,
        }

    def hear(self, request: Any) -> Facts:
        """Sonifies a channel of a clip; returns the data of a player.

        Args:
            request: "clip", "layer", "channel", "method", and "contrast" for a mask.

        Raises:
            Deconv1dError: If a word of it cannot be used; the message is for the reader.
        """
        key, layer, channel, method = _words(request)
        with self._lock:
            if key not in self._clips:
                raise InputError("The clip is no longer here: expected a known one. Send it again.")
            clip = self._clips[key]
            if layer not in clip.layers:
                raise InputError(f"There is no layer {layer!r}. Choose one from the list.")
            return self._sounds(clip, layer, channel, method, contrast=bool(request["contrast"]))

    def prepare(self, key: str) -> bool:
        """Does one batch of the work that all masks of a clip have in common.

        Called again and again, with the requests between. A model whose batches take long is left
        alone: its masks take their time when they are asked for.

        Args:
            key: Of the clip, as `take` gave it.

        Returns:
            Whether to call it again.
        """
        # Of this thread: to wait for the lock, or for a busy machine, does not make a model slow.
        began = time.thread_time()
        with self._lock:
            going = self._step(key)
        return going and time.thread_time() - began < LONGEST_WAIT

    def _step(self, key: str) -> bool:
        """Whether a batch was run; not if all were, or it fails, or the clip is forgotten."""
        if key not in self._clips:
            return False
        try:
            return self._survey(self._clips[key]).step()
        except Exception:  # who asks for a mask is told what is wrong
            return False

    def _survey(self, clip: Clip) -> Survey:
        if clip.survey is None:
            hearing = Hearing(self._sonifier, list(clip.layers), "block", None)
            (clip.survey,) = surveys_of(hearing, self._sonifier.as_taken(clip.waveform))
        return clip.survey

    def _heard(
        self, clip: Clip, layer: str, channel: int, method: str, rivals: int | None
    ) -> Sonification:
        """As `Sonifier.sonify`; what masks have in common is computed once for a clip."""
        if method != MASK:
            return self._sonifier.sonify(
                clip.waveform, layer=layer, channel=channel, method=method, rivals=rivals
            )
        (found,) = listen(
            self._sonifier,
            clip.waveform,
            layers=[layer],
            channel=channel,
            rivals=rivals,
            surveys=[self._survey(clip)],
            progress=False,
        )
        return found

    def _sounds(
        self, clip: Clip, layer: str, channel: int, method: str, *, contrast: bool
    ) -> Facts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on silence, which the page says itself
            rivals = RIVALS if contrast else None
            found = self._heard(clip, layer, channel, method, rivals)
        # A masked recording is quieter than the clip; a sonification has its peak already.
        heard = to_peak_of(clip.waveform, found.waveform)[0]
        name = "masked" if method == MASK else "sonification"
        tracks = {"input": clip.waveform, name: heard, "residual": found.residual}
        return {
            "label": f"{layer}, channel {channel}, {method}",
            "seconds": len(clip.waveform) / (self.rate * speed_of(self.rate)),
            "first": 1,
            "sounds": [asdict(sound) for sound in player_sounds(tracks, self.rate)],
            "silent": not bool(heard.any()),
        }


def _words(request: Any) -> tuple[str, str, int, str]:
    """The words of a request, each of its type: a browser may send anything."""
    kinds: dict[str, Callable[[Any], bool]] = {
        "clip": lambda v: isinstance(v, str),
        "layer": lambda v: isinstance(v, str),
        "channel": lambda v: isinstance(v, int) and not isinstance(v, bool),  # `True` is an int
        "method": lambda v: isinstance(v, str) and v in LISTENING,
        "contrast": lambda v: isinstance(v, bool),
    }
    if not isinstance(request, dict) or set(request) != set(kinds):
        raise InputError(f"The request cannot be read: expected {', '.join(kinds)}, got others.")
    for name, fits in kinds.items():
        if not fits(request[name]):
            raise InputError(f"The request cannot be read: {name} is of another kind.")
    return request["clip"], request["layer"], request["channel"], request["method"]


def message_of(error: Exception) -> str:
    """What the page says of an error: ours as it is, of others their kind alone."""
    if isinstance(error, Deconv1dError):
        return str(error)
    return f"The model failed on this clip: {type(error).__name__}. Its terminal shows more."
