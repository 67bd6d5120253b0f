"""What all experiments share: how large they are, their data, and the networks they train."""

from collections.abc import Mapping, Sized
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from reference_models import simclr, supervised
from reference_models.augment import AUGMENTATIONS
from reference_models.checkpoint import load_classifier, load_encoder, read_json, write_json
from reference_models.cnn12 import CNN12
from reference_models.data import (
    SAMPLE_RATE,
    ClipSet,
    arabic_commands,
    audioset,
    build_cache,
    fsd50k,
    rendered_events,
    rendered_words,
    speech_commands,
)
from reference_models.data.index import share
from reference_models.run import as_json, check_same

Regime = Literal["contrastive", "supervised"]
REGIMES: tuple[Regime, ...] = ("contrastive", "supervised")
LAYERS = tuple(f"conv{block}" for block in range(1, 12))
BALANCED = 0.5
"""Share of the rendered training clips that stand in for AudioSet's balanced list."""
DRAWS = 3
"""Draws of an untrained encoder, at least."""
KEPT = 5
"""Epochs of SimCLR whose weights are kept, about: whether it was long enough, probes say."""


@dataclass(frozen=True)
class Preset:
    """How large the experiments are.

    Attributes:
        contrastive: Pretraining by SimCLR.
        supervised: Training by labels, by data set: "audioset", "balanced", "fsd50k", "words".
        runs: Networks of each regime; a network is one random state of everything that is drawn.
        clips: Clips that an experiment looks at one by one, at the most.
        mined: Clips of which the strongest inputs are mined, at the most.
        channels: Filters of a layer that are sonified one by one, at the most.
        checkpoints: Of the series in figure 5.
        events: Rendered clips of each group, where no data set is given.
        voices: Of the rendered words.
        looking: What an experiment costs once its networks are trained, in the units of
            `Study.cost`, on the average; only the times that are shown depend on it.
        sweep: Networks of each setting of table A.1.
        sweep_epochs: Epochs of SimCLR for table A.1, whose rows are compared with one another, and
            for CNN12_x2; 0: as many as everywhere.
        recognised: The data set of the recognisers that figure 6 listens to: FSD50K, or what has
            test clips enough for it.
        evidence: Whether what it finds says anything of the paper: the smoke preset shows that the
            programs run, and prints no verdicts.
    """

    contrastive: simclr.Settings
    supervised: dict[str, supervised.Settings]
    runs: int
    clips: int
    mined: int
    channels: int
    checkpoints: int
    events: int
    voices: int
    looking: float
    sweep: int = 1
    sweep_epochs: int = 0
    recognised: str = "fsd50k"
    evidence: bool = True

    @property
    def width(self) -> float:
        """Scales the number of filters of every convolution."""
        return self.contrastive.width


def _preset(
    width: float,
    *,
    contrastive: dict[str, Any],
    supervised_: dict[str, dict[str, Any]],
    **sizes: Any,
) -> Preset:
    """A preset for small machines: a fifth of each run's epochs is warm-up."""

    def whole(own: dict[str, Any], kept: int = 1) -> dict[str, Any]:
        epochs = own["epochs"]
        more = {"warmup_epochs": epochs / 5, "keep_every": max(1, epochs // kept)}
        return {"width": width, "sonify_every": 0} | more | own

    chosen = {
        name: supervised.Settings(weight_decay=0.0, **whole(own))
        for name, own in supervised_.items()
    }
    return Preset(simclr.Settings(**whole(contrastive, KEPT)), chosen, **sizes)


def _on_everything(settings: Any) -> Any:
    """The settings, with the validation clips among the training clips.

    The paper held out a tenth, chose its settings by it, and then trained "on the entire training
    set". The choice was the paper's; here nothing but a probe's penalty is chosen, and that on the
    held-out clips, before it is fitted on all of them.
    """
    return replace(settings, splits=("train", "val"))


PRESETS = {
    "paper": Preset(
        _on_everything(simclr.PRESETS["audioset"]),
        {
            "audioset": _on_everything(supervised.PRESETS["audioset"]),
            "balanced": _on_everything(supervised.PRESETS["audioset-balanced"]),
            "fsd50k": supervised.PRESETS["fsd50k"],
            "words": supervised.PRESETS["speech-commands"],
        },
        runs=3,
        sweep=3,
        clips=10**9,
        mined=10**9,
        channels=10**9,
        checkpoints=5,
        events=20_000,
        voices=800,
        looking=1e7,
    ),
    "thorough": _preset(
        1 / 8,
        contrastive={"seconds": 1.25, "batch_size": 32, "epochs": 40, "peak_rate": 5e-4},
        supervised_={
            "audioset": {"seconds": 1.25, "batch_size": 32, "epochs": 20},
            "balanced": {"seconds": 1.25, "batch_size": 32, "epochs": 20},
            "fsd50k": {"seconds": 1.25, "batch_size": 32, "epochs": 20},
            "words": {"seconds": 1.0, "batch_size": 32, "epochs": 40},
        },
        runs=5,
        sweep=3,
        clips=300,
        mined=1000,
        channels=16,
        checkpoints=4,
        events=10_000,
        voices=120,
        looking=7e5,
    ),
    "small": _preset(
        1 / 8,
        contrastive={"seconds": 1.25, "batch_size": 32, "epochs": 24, "peak_rate": 5e-4},
        supervised_={
            "audioset": {"seconds": 1.25, "batch_size": 32, "epochs": 16},
            "balanced": {"seconds": 1.25, "batch_size": 32, "epochs": 10},
            "fsd50k": {"seconds": 1.25, "batch_size": 32, "epochs": 10},
            "words": {"seconds": 1.0, "batch_size": 32, "epochs": 20},
        },
        runs=2,
        clips=60,
        mined=300,
        channels=16,
        checkpoints=4,
        events=1600,
        voices=60,
        looking=9e4,
    ),
    "smoke": _preset(
        1 / 64,
        contrastive={"seconds": 0.3, "batch_size": 8, "epochs": 1},
        supervised_={
            "audioset": {"seconds": 0.3, "batch_size": 8, "epochs": 1},
            "balanced": {"seconds": 0.3, "batch_size": 8, "epochs": 1},
            "fsd50k": {"seconds": 0.3, "batch_size": 8, "epochs": 1},
            "words": {"seconds": 0.3, "batch_size": 16, "epochs": 1},
        },
        runs=2,
        clips=2,
        mined=6,
        channels=2,
        checkpoints=1,
        events=60,
        voices=7,
        looking=500.0,
        evidence=False,
    ),
}
"""By size; where the audio comes from is a choice beside it."""

# On recordings, where an epoch of Arabic Commands has about 230 batches of 32.
_RECORDED = {
    "audioset": supervised.PRESETS["arabic-commands"],
    "balanced": supervised.PRESETS["arabic-commands"],
    "fsd50k": supervised.PRESETS["esc10"],
    "words": supervised.PRESETS["small-speech-commands"],
}
_SHORT = {"contrastive": 6, "audioset": 6, "balanced": 6, "fsd50k": 20, "words": 15}
"""Epochs of the size "small": at most 1,500 steps each."""
ORIGINS = ("rendered", "recordings")
"""Where the audio that a study trains on may come from."""
SOURCES = {
    "arabic": "arabic_commands",
    "fsd50k": "esc10_as_fsd50k",
    "words": "speech_commands",
    "esc10": "esc10",
}
"""Recordings that a machine without AudioSet can train on, by what they stand in for: folders."""


def preset_of(size: str, source: str) -> Preset:
    """The preset of a size, with the recipes that fit where the audio comes from (`ORIGINS`)."""
    preset = PRESETS[size]
    if source == "rendered" or size not in ("small", "thorough"):
        return preset

    def sized(settings: Any, name: str) -> Any:
        if size == "thorough":
            return settings
        epochs = _SHORT[name]
        kept = max(1, epochs // KEPT) if name == "contrastive" else epochs
        return replace(settings, epochs=epochs, warmup_epochs=epochs / 10, keep_every=kept)

    return replace(
        preset,
        checkpoints=KEPT,
        sweep_epochs=30 if size == "thorough" else 0,
        recognised="words",  # of ESC-10's mixtures 160 are for tests
        looking=preset.looking / 3,  # at words of a second
        contrastive=sized(simclr.PRESETS["arabic-commands"], "contrastive"),
        supervised={name: sized(settings, name) for name, settings in _RECORDED.items()},
    )


def size_of(preset: Preset) -> str:
    """Which size a preset is of, wherever its audio comes from."""
    known = {size: [preset_of(size, source) for source in ORIGINS] for size in PRESETS}
    return next((size for size, its in known.items() if preset in its), "one of its own")


@dataclass(frozen=True)
class Network:
    """A network that experiments need: what it is trained on, from what, and how.

    Attributes:
        regime: Contrastive networks are encoders, supervised ones classifiers.
        data: "audioset", "balanced" (its small list), "fsd50k" or "words".
        start: Whose encoder it starts from; None: from scratch.
        frozen: Whether the head alone is trained (the paper's fonly).
        layers: Blocks that are kept; 0: all, and the encoder's linear layer.
        wider: Factor on the preset's width: 2 for CNN12_x2.
        pooling: "max", or "stride" for the strided twin.
        temperature: tau of the contrastive loss.
        augmentations: How many of SimCLR's, in the order of table A.1.
        epochs: Of SimCLR; 0: the preset's.
        series: Whether checkpoints are kept for figure 5.
        untrained: Whether it is left as it was drawn: what training must beat.
        random_state: Of everything that is drawn.
    """

    regime: Regime
    data: str = "audioset"
    start: "Network | None" = None
    frozen: bool = False
    layers: int = 0
    wider: int = 1
    pooling: str = "max"
    temperature: float = 0.1
    augmentations: int = len(AUGMENTATIONS)
    epochs: int = 0
    series: bool = False
    untrained: bool = False
    random_state: int = 0

    @property
    def name(self) -> str:
        """Of its folder: "fsd50k-from-contrastive-frozen-s0" and so on."""
        own = ["untrained"] if self.untrained else [f"{self.data}-{self.regime}"]
        if self.start:
            own.append(f"from-({self.start.name})")
        own += [
            word
            for word, said in (
                ("frozen", self.frozen),
                (f"blocks{self.layers}", self.layers),
                (f"x{self.wider}", self.wider > 1),
                (self.pooling, self.pooling != "max"),
                (f"tau{self.temperature}", self.temperature != 0.1),
                (f"aug{self.augmentations}", self.augmentations < len(AUGMENTATIONS)),
                (f"epochs{self.epochs}", self.epochs > 0),
            )
            if said
        ]
        return "-".join([*own, f"s{self.random_state}"])


def pretrained(regime: Regime, random_state: int = 0, **changes: Any) -> Network:
    """The network that a regime makes of AudioSet; the first run of each keeps its series."""
    plain = random_state == 0 and not changes
    return Network(regime, random_state=random_state, series=plain, **changes)


def of_sweep(preset: Preset, random_state: int = 0, **changes: Any) -> Network:
    """A contrastive network of table A.1: of the preset's recipe but for what changes."""
    shorter = {"epochs": preset.sweep_epochs} if preset.sweep_epochs else {}
    return pretrained("contrastive", random_state, **changes, **shorter)


def untrained(random_state: int = 0) -> Network:
    """The encoder that both regimes' network of this random state started from."""
    return Network("contrastive", untrained=True, random_state=random_state)


def random_states(preset: Preset) -> range:
    """The random states of a study's networks."""
    return range(preset.runs)


def untrained_random_states(preset: Preset) -> range:
    """Those of its untrained encoders: every network's own, and at least `DRAWS`."""
    return range(max(DRAWS, preset.runs))


def finetuned(data: str, start: Network | None, **changes: Any) -> Network:
    """A classifier trained on a data set, from scratch or from pretrained weights.

    It has the random state of the network that it starts from, so that runs are independent from
    first to last.
    """
    random_state = changes.pop("random_state", start.random_state if start else 0)
    wider = changes.pop("wider", start.wider if start else 1)
    return Network("supervised", data, start, random_state=random_state, wider=wider, **changes)


@dataclass(frozen=True)
class Study:
    """One reproduction of the paper in one folder.

    Attributes:
        folder: Where everything goes: `data`, `networks`, and a folder for each experiment.
        preset: How large it is.
        sources: Folders of real data sets, by "audioset", "fsd50k", "words" and "esc10"; what is
            missing is rendered. "arabic", Arabic Commands, stands in for AudioSet where that is
            missing: what both regimes are pretrained on.
        device: Where networks are trained and run.
    """

    folder: Path
    preset: Preset
    sources: dict[str, Path] = field(default_factory=dict)
    device: str = "cpu"

    def claim_folder(self) -> None:
        """Writes down what the folder's study is: its preset, and what it has of real data.

        Raises:
            ValueError: The folder holds another study. What is finished there is not done again,
                so that the two would be mixed.
        """
        path = self.folder / "study.json"
        ours = as_json(asdict(self.preset) | {"sources": sorted(self.sources)})
        if not path.exists():
            write_json(path, ours)
            return
        held, ours = _flat(read_json(path)), _flat(ours)
        for name in ours | held:
            if (one := held.get(name)) != (other := ours.get(name)):
                raise ValueError(
                    f"'{self.folder}' holds another study: its {name} is {one}, expected {other}; "
                    "choose another folder with --out, or give the options that it was made with"
                )

    # --- data ------------------------------------------------------------------------------------

    def clips(self, data: str) -> ClipSet:
        """The clips of a data set, decoded or rendered on first use."""
        folder, preset = self.folder / "data", self.preset
        layout = self._layout(data)
        if layout is None and data != "balanced":
            return _rendered(data, folder / data, preset.events, preset.voices)
        if layout in (None, "arabic") and data == "balanced":
            return _fewer(self.clips("audioset"), folder / "audioset")
        source = self.sources["audioset" if layout == "balanced" else layout]
        return _read(layout, source, folder / data)

    def is_rendered(self, data: str) -> bool:
        """Whether rendered audio stands in for a data set."""
        return self._layout(data) is None

    def _layout(self, data: str) -> str | None:
        """Which data set's layout is read for a data set; None: it is rendered."""
        if ("audioset" if data == "balanced" else data) in self.sources:
            return data
        return "arabic" if data in ("audioset", "balanced") and "arabic" in self.sources else None

    # --- networks --------------------------------------------------------------------------------

    def train(self, network: Network) -> dict[str, Any]:
        """Trains a network unless it is there already; returns the result of its run.

        Args:
            network: The one that it starts from is trained first.

        Raises:
            As `simclr.train` and `supervised.train`.
        """
        settings, folder = self.settings(network), self._folder(network)
        program = simclr if network.regime == "contrastive" else supervised
        if network.start:
            self.train(network.start)
        return program.train(self.clips(network.data), settings, folder, device=self.device)

    def settings(self, network: Network) -> Any:
        """The settings of a network's run."""
        preset = self._preset_of(network)
        settings = replace(
            preset,
            width=preset.width * network.wider,
            pooling=network.pooling,
            random_state=network.random_state,
        )
        if network.series:
            settings = replace(
                settings, keep_every=max(1, preset.epochs // self.preset.checkpoints)
            )
        if network.regime == "contrastive":
            # Of what an encoder is pretrained on, only Arabic Commands names its speakers.
            apart = settings.one_speaker and self._layout(network.data) == "arabic"
            if network.epochs:
                settings = _for_epochs(settings, network.epochs)
            return replace(
                settings,
                one_speaker=apart,
                temperature=network.temperature,
                augmentations=tuple(AUGMENTATIONS)[: network.augmentations],
                epochs=0 if network.untrained else settings.epochs,
            )
        encoder = str(self.checkpoint(network.start)) if network.start else ""
        return replace(settings, encoder=encoder, frozen=network.frozen, layers=network.layers)

    def result(self, network: Network) -> dict[str, Any]:
        """What the finished run of a network says of itself: settings, history, metrics."""
        return read_json(self._folder(network) / "result.json")

    def checkpoint(self, network: Network, epoch: int | None = None) -> Path:
        """The file with a network's last weights, or with those after some epoch."""
        number = self.settings(network).epochs if epoch is None else epoch
        return self._folder(network) / f"epoch-{number:03d}.safetensors"

    def is_trained(self, network: Network) -> bool:
        """Whether a network's run is finished.

        Raises:
            ValueError: It is, with other settings.
        """
        path = self._folder(network) / "result.json"
        if not path.exists():
            return False
        check_settings(self.result(network)["settings"], self.settings(network), path)
        return True

    def cost(self, network: Network, training: ClipSet) -> float:
        """Seconds of audio that training a network on clips passes, times what width costs."""
        settings, clips = self.settings(network), len(training)
        if network.frozen:
            return clips * float(np.median(training.frames)) / SAMPLE_RATE
        views = 2 if network.regime == "contrastive" else 1
        return clips * views * settings.seconds * settings.epochs * network.wider**2

    def epochs(self, network: Network) -> list[int]:
        """The epochs after which weights were kept, the first weights (0) among them."""
        files = sorted(self._folder(network).glob("epoch-*.safetensors"))
        return [int(file.stem.removeprefix("epoch-")) for file in files]

    def encoder(self, network: Network, epoch: int | None = None) -> CNN12:
        """A trained network's encoder, in eval mode, on the study's device."""
        return load_encoder(self.checkpoint(network, epoch)).to(self.device)

    def classifier(self, network: Network) -> nn.Sequential:
        """A trained classifier (`encoder` and `head`), in eval mode, on the study's device."""
        return load_classifier(self.checkpoint(network)).to(self.device)

    def _preset_of(self, network: Network) -> Any:
        """The preset's settings for a network's kind of run."""
        if network.regime == "contrastive":
            return self.preset.contrastive
        return self.preset.supervised[network.data]

    def _folder(self, network: Network) -> Path:
        return self.folder / "networks" / network.name


def _for_epochs(settings: simclr.Settings, epochs: int) -> simclr.Settings:
    """The settings for another number of epochs, with the same share of warm-up."""
    warmup = settings.warmup_epochs * epochs / settings.epochs
    return replace(settings, epochs=epochs, warmup_epochs=warmup, keep_every=epochs)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings inside of settings by names such as "contrastive.epochs"."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def check_settings(held: Mapping[str, Any], settings: Any, path: Path) -> None:
    """Raises a ValueError if a file is of a network with other settings; see `run.check_same`.

    Where the encoder that it started from lies does not count.
    """
    ours = as_json(asdict(settings))
    check_same(*({**one, "encoder": ""} for one in (held, ours)), path)


@lru_cache(maxsize=8)
def _read(data: str, source: Path, cache: Path) -> ClipSet:
    """The clips of a data set in a folder."""
    layouts = {
        "arabic": arabic_commands,
        "audioset": audioset,
        "balanced": partial(audioset, balanced=True),
        "fsd50k": fsd50k,
        "words": speech_commands,
    }
    return build_cache(layouts[data](source), cache)


@lru_cache(maxsize=8)
def _rendered(data: str, cache: Path, events: int, voices: int) -> ClipSet:
    """The rendered clips that stand in for a data set."""
    if data == "words":
        return rendered_words(cache, voices=voices)
    group = {"audioset": "A", "fsd50k": "B"}[data]
    return rendered_events(cache, group=group, clips=events, lasting=group == "A")


def _fewer(clips: ClipSet, cache: Path) -> ClipSet:
    """A fixed share of the training clips, for want of a balanced list."""
    kept = tuple(c for c in clips.index.clips if c.split != "train" or share(c.id) < BALANCED)
    return ClipSet(replace(clips.index, clips=kept), cache)


def every_nth(items: Sized, most: int) -> list[int]:
    """Numbers of at most `most` clips (or whatever they are), spread evenly over the set."""
    count = min(most, len(items))
    return [int(n) for n in torch.linspace(0, len(items) - 1, count).round()] if count else []
