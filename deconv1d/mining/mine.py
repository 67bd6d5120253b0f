"""The clips of a data set that each map of a model answers most strongly."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deconv1d.errors import InputError, LayerError, ModelError, check_word
from deconv1d.forward import TAPS, check_names
from deconv1d.layers.maps import LayerMaps
from deconv1d.mining.mined import AS_BYTES, Mined, Ranking, Settings, import_parquet
from deconv1d.mining.ranking import SCORES, Scores, by_layer, ranked
from deconv1d.sonify import Sonifier


def mine(
    sonifier: Sonifier,
    clips: Iterable[tuple[str, Any]],
    *,
    layers: Sequence[str],
    k: int = 3,
    score: str = "peak",
    tap: str = "block",
    path: str | Path | None = None,
    save_seconds: float = 10.0,
    skip_unusable: bool = False,
) -> Mined:
    """The top k clips of each channel of some layers, from one forward pass a clip.

    The result does not depend on the order of the clips: the larger value comes first, among
    equals the smaller clip id. A clip has one place in a channel's ranking, that of its strongest
    moment (the first among equals). A silent clip is a clip like any other. Complex maps count by
    their magnitude.

    Args:
        sonifier: Of the model.
        clips: Pairs of a clip's id and its waveform, one clip, as for `Sonifier.sonify`.
        layers: Each as for `Sonifier.sonify`.
        k: How many clips to keep for each channel.
        score: What a clip is ranked by: "peak", the map's largest value (Zeiler & Fergus 2014,
            figure 2), or "mean", its mean over time (as `channel="most_active"`).
        tap: As for `Sonifier.sonify`.
        path: A Parquet file for the result; needs pyarrow. Until it is complete, what is found so
            far lies beside it in a file with ".part" at its end, and mining again goes on from
            there; the result is the same as without a break.
        save_seconds: How often what is found so far is written.
        skip_unusable: Whether a clip that cannot be used, such as one that is too short, is noted
            in `Mined.skipped` instead of raising.

    Raises:
        InputError: If a clip or an argument cannot be used; the unfinished file is of another
            model, of other settings, or of clips that are not given; or no clip can be used.
        LayerError, PathError, ModelError: As for `Sonifier.sonify`.
        FileError: If a file cannot be read or written.
        DependencyError: If `path` is given and pyarrow is not installed.

    Example:
        >>> import torch
        >>> from deconv1d import Sonifier
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 9), torch.nn.ReLU())
        >>> clips = ((f"clip{n}", torch.randn(800)) for n in range(5))
        >>> mine(Sonifier(model), clips, layers=["0"]).top("0", channel=3)[0].rank
        0
    """
    check_names(layers)
    check_word("score", score, SCORES)
    check_word("tap", tap, TAPS)
    check_count("k", k, "how many clips to keep for each channel")
    part = None if path is None else Path(f"{path}.part")
    run = _Run(sonifier, layers, k=k, score=score, tap=tap, skip=skip_unusable)
    if part is not None:
        run.resume(part)
    saved = time.monotonic()
    for clip, waveform in clips:
        run.take(clip, waveform)
        # Without settings no clip was heard yet, and there is nothing to save.
        due = run.settings is not None and time.monotonic() - saved >= save_seconds
        if part is not None and due:
            run.found().save(part)
            saved = time.monotonic()
    found = run.finished()
    if path is not None and part is not None:
        # In this order: a kill between the two leaves both, and mining again is quick.
        found.save(path)
        part.unlink(missing_ok=True)
    return found


class _Run:
    """What is found so far, and by which settings."""

    def __init__(
        self, sonifier: Sonifier, layers: Sequence[str], *, k: int, score: str, tap: str, skip: bool
    ) -> None:
        self.sonifier, self.layers = sonifier, layers
        self.k, self.score, self.tap, self.skip = k, score, tap, skip
        self.weights = weights_hash(sonifier.model)
        self.settings: Settings | None = None
        self.before: Mined | None = None
        self.ranking: Ranking | None = None
        self.channels: dict[str, int] = {}
        self.clips: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.contents: dict[str, str] = {}
        self.given: set[str] = set()

    def resume(self, part: Path) -> None:
        """Goes on from an unfinished file, if there is one."""
        import_parquet()  # before hours of work, not after
        if not part.exists():
            return
        self.before = before = Mined.read(part)
        parts = [before.rankings[layer] for layer in before.settings.layers]
        columns = zip(*(part.columns() for part in parts), strict=True)
        self.ranking = Ranking(*map(np.concatenate, columns))
        self.channels = {n: len(r.value) for n, r in before.rankings.items()}
        self.clips = set(before.clips)
        self.skipped = dict(before.skipped) if self.skip else {}
        self.contents = dict(before.contents)

    def take(self, clip: str, waveform: Any) -> None:
        """Hears one clip, unless it was heard before the break."""
        self._check_id(clip)
        self.given.add(clip)
        self._check_content(clip, waveform)
        # After a break the first clip is run although it is known: only a forward pass gives the
        # layers' full names, by which the settings of both runs are compared.
        known = clip in self.clips or clip in self.skipped
        if known and self.settings is not None:
            return
        try:
            heard = self._hear(waveform)
        except (InputError, ModelError) as error:
            if not (self.skip and isinstance(error, InputError)):
                raise type(error)(f"Clip {clip!r} cannot be used. {error}") from error
            self.skipped[clip] = str(error)
            return
        self._settle([maps.layer for maps in heard])
        if known:
            return
        ids = np.array([clip], dtype=object)
        scores = Scores.of_layers([Scores.of(maps, self.score) for maps in heard])
        self.ranking = ranked(self.ranking, scores, ids, self.k)
        self.channels = {maps.layer: maps.maps.shape[1] for maps in heard}
        self.clips.add(clip)

    def _hear(self, waveform: Any) -> list[LayerMaps]:
        heard = self.sonifier.all_maps(waveform, layers=self.layers, tap=self.tap)
        examples = len(heard[0].maps)
        if examples != 1:
            raise InputError(
                f"The waveform holds several clips: expected a batch of 1, got {examples}. Give "
                f"each its own id."
            )
        return heard

    def _settle(self, layers: list[str]) -> None:
        """With the first clip that is heard the layers' full names are known."""
        if self.settings is not None:
            return
        check_different(layers, self.layers)
        found = Settings(tuple(layers), self.k, self.score, self.tap, self.weights)
        if self.before is not None and self.before.settings != found:
            raise InputError(
                f"The unfinished file cannot be gone on with: expected the model and settings it "
                f"was begun with, {self.before.settings}, got {found}. Give those, or delete the "
                f"file that ends in .part."
            )
        self.settings = found

    def _check_id(self, clip: Any) -> None:
        if not isinstance(clip, str):
            raise InputError(
                f"The clip id {clip!r} cannot be used: expected a string, got a "
                f"{type(clip).__name__}. Give pairs of an id and a waveform, such as "
                f"zip(clips.ids, waveforms)."
            )
        if clip in self.given:
            raise InputError(
                f"Clip {clip!r} is given twice: expected ids that differ. Rename one of the two."
            )

    def _check_content(self, clip: str, waveform: Any) -> None:
        """Audio that changed under the same id would be half old and half new in the result."""
        content = _content_hash(waveform)
        if content != self.contents.setdefault(clip, content):
            raise InputError(
                f"Clip {clip!r} has changed since the unfinished file was begun: expected the same "
                f"waveform, got another. Give the old one, or delete the file that ends in .part."
            )

    def found(self) -> Mined:
        """What is found so far."""
        if self.settings is None:
            reason = next(iter(self.skipped.values()), "None was given.")
            raise InputError(
                f"No clip could be used: expected at least one, got {len(self.given)}, of which "
                f"{len(self.skipped)} were skipped. The first: {reason}"
            )
        skipped = dict(sorted(self.skipped.items()))
        clips, contents = tuple(sorted(self.clips)), dict(sorted(self.contents.items()))
        rankings = {} if self.ranking is None else by_layer(self.ranking, self.channels)
        return Mined(self.settings, rankings, clips, skipped, contents)

    def finished(self) -> Mined:
        """What is found, now that all clips were taken."""
        others = self.clips.union(self.skipped) - self.given
        if others:
            raise InputError(
                f"The unfinished file holds {len(others)} clips that were not given, such as "
                f"{min(others)!r}: expected the clips it was begun with. Give those, or delete the "
                f"file that ends in .part."
            )
        return self.found()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, by their names, and of its structure.

    Two models of equal weights may compute different things: another stride, another activation.
    """
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        kind = type(module)
        text = f"{path} {kind.__module__}.{kind.__qualname__} {module.extra_repr()} {_code(module)}"
        digest.update(text.encode(*AS_BYTES))
    # Buffers, too: running statistics change what a model computes.
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode(*AS_BYTES))
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _code(module: nn.Module) -> str:
    """What a module's forward does, as far as it can be read."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "code", ""))
    try:
        return inspect.getsource(type(module).forward)
    except (OSError, TypeError):  # written in a session
        code = getattr(type(module).forward, "__code__", None)
        return "" if code is None else f"{code.co_code.hex()} {code.co_names} {code.co_consts}"


def _content_hash(waveform: Any) -> str:
    """SHA-256 of a waveform; of what is none, of how it is written."""
    try:
        values = waveform.detach().cpu() if isinstance(waveform, Tensor) else waveform
        # NumPy has no bfloat16; every value of it is one of float32.
        if isinstance(values, Tensor) and values.dtype == torch.bfloat16:
            values = values.float()
        array = np.ascontiguousarray(values)
        content = f"{array.dtype} {array.shape}".encode() + array.tobytes()
    except (TypeError, ValueError, RuntimeError):
        content = repr(waveform).encode(*AS_BYTES)
    return hashlib.sha256(content).hexdigest()


def check_different(layers: Sequence[str], asked: Sequence[str]) -> None:
    """Raises LayerError if two of the names that were asked for mean one layer.

    Args:
        layers: Their full names.
        asked: As they were given.
    """
    twice = [name for name in layers if layers.count(name) > 1]
    if twice:
        raise LayerError(
            f"Layer {twice[0]!r} is asked for twice: expected different layers, got "
            f"{list(asked)}. Name it once."
        )


def check_count(name: str, number: Any, what: str) -> None:
    """Raises InputError unless an argument is a whole number above 0.

    Args:
        name: Of the argument.
        number: What was given.
        what: What it says, as the advice ends.
    """
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(
            f"{name}={number!r} cannot be used: expected a whole number above 0. Give {what}."
        )
