"""The folder of a training run: what it writes, and how it goes on after it was killed."""

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from deconv1d import Sonifier
from deconv1d.logger import SonificationLogger
from reference_models.checkpoint import (
    check_classes,
    load_checkpoint,
    part,
    read_json,
    save_checkpoint,
    write_json,
)
from reference_models.cnn12 import pad_to_shortest
from reference_models.data import SAMPLE_RATE, ClipSet
from reference_models.distributed import rank

SAVE_SECONDS = 600.0  # between saves within an epoch
LOGGED_LAYERS = ("conv2", "conv6", "conv11")  # the paper's figure 4 looks at these three


class Run:
    """One training run and its folder. All but the first of several processes write nothing.

    Killed at any time and started again it ends in the same weights: on a CPU bit for bit, on a
    GPU as far as its kernels repeat themselves.

        epoch-007.safetensors   the weights after 7 epochs (0: before the first); a .json beside it
        resume.safetensors      weights, Adam's moments and the step of the last save
        result.json             written last: the run is finished

    Also, where tensorboard is installed, its events: the numbers of each epoch, and every
    `sonify_every` epochs what the most active map of three layers responds to in the first clip.

    Args:
        folder: Made if missing.
        settings: The dataclass with the settings of the run.
        clips: What it trains on.

    Attributes:
        folder: The folder.
        about: What every file says of the run: settings, hash of the encoder that it starts from,
            classes, data (counts by status, hashes of the clips), versions.
        history: The numbers of each finished epoch.
        writer: TensorBoard's `SummaryWriter` from `resume` on, or None where it is not installed.

    Raises:
        ValueError: The folder holds a run with other settings, classes, clips, labels or splits,
            or one that started from another encoder.
    """

    def __init__(self, folder: str | Path, settings: Any, clips: ClipSet):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.about: dict[str, Any] = as_json(
            {
                "settings": asdict(settings),
                "encoder_hash": _hash_of(getattr(settings, "encoder", "")),
                "classes": clips.classes,
                "multilabel": clips.multilabel,
                "data": clips.index.summary(),
                "versions": {
                    "python": platform.python_version(),
                    "numpy": np.__version__,
                    "torch": torch.__version__,
                },
            }
        )
        self.history: list[dict[str, Any]] = []
        self._started = self._saved = time.monotonic()
        self.writer: Any = None
        self._clip = pad_to_shortest(clips.waveform(0)) if len(clips) else None

    def result(self) -> dict[str, Any] | None:
        """The result of this run if it is finished already, else None."""
        path = self.folder / "result.json"
        if not path.exists():
            return None
        result = read_json(path)
        self._check_same(result, path)
        return result

    def resume(self, model: nn.Module, optimizer: Optimizer) -> int:
        """Loads the last save, if there is one, and returns the step to go on with."""
        self.writer = tensorboard_writer(self.folder)
        path = self.folder / "resume.safetensors"
        if not path.exists():
            self.save_weights(model, 0)
            return 0
        tensors, about = load_checkpoint(path)
        self._check_same(about, path)
        self.history = about["history"]
        self._started -= about["seconds"]
        model.load_state_dict(part(tensors, "model."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, moment in part(tensors, "adam.").items():
            number, kind = name.split(".")
            state.setdefault(int(number), {})[kind] = moment
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return about["step"]

    def save(self, model: nn.Module, optimizer: Optimizer, step: int, *, now: bool) -> None:
        """Saves what `resume` loads, after `step` steps: `now`, or if the last save is old."""
        if rank() or not (now or time.monotonic() - self._saved >= SAVE_SECONDS):
            return
        state = optimizer.state_dict()["state"]
        moments = {f"adam.{n}.{kind}": m for n, held in state.items() for kind, m in held.items()}
        weights = {f"model.{name}": weight for name, weight in model.state_dict().items()}
        progress = {"step": step, "seconds": self._seconds(), "history": self.history}
        path = self.folder / "resume.safetensors"
        save_checkpoint(path, weights | moments, self.about | progress)
        self._saved = time.monotonic()

    def check_loss(self, loss: float) -> None:
        """Before an epoch's validation, which says nothing of a model that has diverged.

        Raises:
            FloatingPointError: The loss is no longer finite.
        """
        epoch = len(self.history) + 1
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"training in '{self.folder}' diverged: the loss of epoch {epoch} is {loss}, "
                f"expected a finite number; train in another folder with a lower learning rate "
                f"(the weights of epoch {epoch - 1} are kept)"
            )

    def end_epoch(self, model: nn.Module, **numbers: float) -> None:
        """Keeps the numbers of an epoch, and the weights too if its turn has come.

        The numbers go into the history, to TensorBoard and onto the screen.
        """
        epoch = len(self.history) + 1
        self.history.append(numbers)
        settings = self.about["settings"]
        if epoch % settings["keep_every"] == 0 or epoch == settings["epochs"]:
            self.save_weights(model, epoch)
        if self.writer:
            for name, number in numbers.items():
                self.writer.add_scalar(name, number, epoch)
            if settings["sonify_every"] and epoch % settings["sonify_every"] == 0:
                self._sonify(model, epoch)
            self.writer.flush()
        if rank() == 0:
            shown = "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())
            print(f"epoch {epoch}/{settings['epochs']}  {shown}", flush=True)

    def save_weights(self, model: nn.Module, epoch: int) -> None:
        """Adds the model's weights after `epoch` epochs to the series of checkpoints."""
        if rank() == 0:
            about = self.about | {"epoch": epoch, "history": self.history}
            save_checkpoint(
                self.folder / f"epoch-{epoch:03d}.safetensors", model.state_dict(), about
            )

    def finish(self, **numbers: Any) -> dict[str, Any]:
        """Writes the result of the run, and returns it."""
        if self.writer:
            self.writer.close()
        seconds = {"seconds": self._seconds()}
        result = as_json(self.about | {"history": self.history} | seconds | numbers)
        if rank() == 0:
            write_json(self.folder / "result.json", result)
        return result

    def _sonify(self, model: nn.Module, epoch: int) -> None:
        sonifier = Sonifier(model, sample_rate=SAMPLE_RATE)
        maps = dict.fromkeys(LOGGED_LAYERS, "most_active")
        SonificationLogger(sonifier, self._clip, maps=maps, writer=self.writer).log(epoch)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 1)

    def _check_same(self, held: dict[str, Any], path: Path) -> None:
        check_classes(held["classes"], self.about["classes"], path)
        ours, theirs = (
            about["settings"]
            | {"encoder": about.get("encoder_hash")}
            | {name: about["data"].get(name) for name in ("clip_hash", "content_hash")}
            for about in (self.about, held)
        )
        if ours["encoder"] is None:  # it is there no more, and a finished run does not need it
            theirs["encoder"] = None
        check_same(theirs, ours, path)


def check_same(held: Mapping[str, Any], ours: Mapping[str, Any], path: Path) -> None:
    """Raises a ValueError that names the first setting in which a run's file is not as expected."""
    for name in {**ours, **held}:
        if ours.get(name) != held.get(name):
            raise ValueError(
                f"'{path}' is of another run: its {name} is {held.get(name)!r}, expected "
                f"{ours.get(name)!r}; choose another folder, or delete this one to start anew"
            )


def _hash_of(encoder: str) -> str | None:
    """16 hex digits of the file that a run starts from: where it lies may change."""
    path = Path(encoder)
    if not encoder:
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else None


def as_json(content: dict[str, Any]) -> dict[str, Any]:
    """The same after a round trip through JSON, so that it compares equal to what a file says."""
    return json.loads(json.dumps(content))


def tensorboard_writer(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed or another process writes."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder)) if rank() == 0 else None
