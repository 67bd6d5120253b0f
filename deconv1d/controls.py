"""How far to trust a sonification: the same procedure where it must not work, and trivial sounds.

A control is a sound that owes nothing, or less, to what the channel learnt. Where the sonification
is like its controls, it says little about the channel. Names follow Quantus: MPRT is the model
parameter randomisation test, eMPRT how much more complex the explanation gets by it, Random Logit
the comparison with other channels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv1d import measure
from deconv1d.errors import InputError, SilenceWarning
from deconv1d.faithfulness import activations
from deconv1d.inputs import as_waveform
from deconv1d.redraw import random_seed, redrawn, shuffled
from deconv1d.seeds import Seed
from deconv1d.sonification import Sonification, rate_and_channel
from deconv1d.sonify import Sonifier, to_peak_of
from deconv1d.table import Table

DEPTHS = 4
OTHERS = 8
BINS = 100

EVERYTHING = "all weights redrawn (MPRT)"
FILTER = "this filter redrawn"
RANDOM_SEED = "random seed, same switches"
OTHER_CHANNELS = "other channels (Random Logit)"
OTHER_SWITCHES = "switches of another clip"
LIKE = {FILTER: "one with its filter redrawn", OTHER_CHANNELS: "those of other channels"}
OWN, SHARED = 0.4, 0.3
"""From which specificity on a sound is called the channel's own, and up to which it is not. Filters
that are band-passes by construction have 0.46 to 0.68, channels of random layers 0.07 to 0.29."""
BASELINES = ("input", "input gated by activation", "gradient", "gradient x input", "mean map")


@dataclass(frozen=True)
class Control:
    """What one control, drawn once or several times, has in common with the sonification.

    Means over the draws. Similarities are of sonification and control; `input` and `answer` are the
    sonification's own scores *minus the control's*.

    Attributes:
        control: What was controlled.
        draws: How many sounds.
        spearman: |Rank correlation| of the two waveforms, 0 to 1.
        log_mel: Correlation of their log-mel spectrograms, -1 to 1.
        coherence: Mean of their five highest coherences, 0 to 1.
        similarity: Mean of these three, a negative correlation counting 0.
        spread: Standard deviation of `similarity` over the draws.
        input: Coherence with the input: the sonification's minus the control's.
        answer: The channel's activation on hearing each, over that on hearing the input: the
            sonification's minus the control's.
    """

    control: str
    draws: int
    spearman: float
    log_mel: float
    coherence: float
    similarity: float
    spread: float
    input: float
    answer: float


@dataclass(frozen=True)
class ControlCard:
    """A sonification's controls, and what they come to.

    Attributes:
        layer: The layer's full name.
        channel: The channel.
        controls: One row for each control.
        input: Coherence of the sonification with the input, 0 to 1.
        answer: The channel's activation on hearing the sonification, over that on the input.
        effective_rank: How many different sounds the channels' sonifications are.
        channels: Of how many channels' sonifications.
        complexity_rise: eMPRT: entropy of the sample values' histogram of the sonification with all
            weights redrawn, over that of the sonification, minus 1; None if that is silent.
        sounds: The sonification and one sound of each control, (time,), by name.
        sample_rate: In hertz.
    """

    layer: str
    channel: int
    controls: Table[Control]
    input: float
    answer: float
    effective_rank: float
    channels: int
    complexity_rise: float | None
    sounds: dict[str, Tensor]
    sample_rate: int

    def __getitem__(self, name: str) -> Control:
        """The control of that name."""
        return next(control for control in self.controls if control.control == name)

    @property
    def nearest(self) -> Control | None:
        """Of other channels and this filter redrawn the control that is more alike, if any."""
        telling = [control for control in self.controls if control.control in LIKE]
        return max(telling, key=lambda control: control.similarity, default=None)

    @property
    def specific(self) -> float:
        """How little the sonification is like that control, 0 to 1; 0 if there is none.

        These two must differ where the channel matters. A random seed need not: a band-pass filter
        makes the same band of it. Nor need redrawn layers below: they change the input's way too.
        """
        return 0.0 if self.nearest is None else 1 - self.nearest.similarity

    @property
    def verdict(self) -> str:
        """A plain sentence on how far to trust the sonification."""
        return _verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the sounds, for JSON."""
        facts = {k: v for k, v in vars(self).items() if k not in ("sounds", "controls")}
        rows = [vars(control) for control in self.controls]
        return {**facts, "specific": self.specific, "controls": rows, "verdict": self.verdict}

    @property
    def facts(self) -> str:
        """What does not fit into the table, in a sentence."""
        rise = "silent" if self.complexity_rise is None else f"{self.complexity_rise:+.0%}"
        return (
            f"The channel answers the sonification with {self.answer:.2f} of what it answers the "
            f"input with; the two sounds are coherent to {self.input:.2f}. {self.channels} "
            f"channels' sonifications are {self.effective_rank:.1f} different sounds. Change in "
            f"complexity with all weights redrawn (eMPRT): {rise}."
        )

    def __str__(self) -> str:
        title = f"Controls of layer {self.layer!r}, channel {self.channel}"
        return f"{title}\n\n{self.controls}\n\n{self.facts}\n{self.verdict}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deconv1d.report import render_card

        return render_card(self)


def check(
    sonifier: Sonifier,
    x: Any,
    *,
    layer: str,
    channel: int | str = "most_active",
    tap: str = "block",
    other: Any = None,
    seeds: int = 3,
    seed: int = 0,
) -> ControlCard:
    """A card with the controls of one channel's sonification; see `Sonifier.check`."""
    found = sonifier.sonify(x, layer=layer, channel=channel, tap=tap)
    trial = _Trial(sonifier, found, torch.Generator().manual_seed(seed), seeds)
    groups = trial.audible(_other_clip(found.input, other))
    mine, everything = found.waveform, groups.get(EVERYTHING)
    answer = trial.answer(mine)
    rows = [trial.row(name, sounds, answer) for name, sounds in groups.items()]
    sounds = [mine, *groups.get(OTHER_CHANNELS, [])]
    named = {"sonification": mine} | {name: group[0] for name, group in groups.items()}
    return ControlCard(
        layer=found.layer,
        channel=trial.channel,
        controls=Table(rows),
        input=float(_coherence(mine, found.input)),
        answer=answer,
        effective_rank=float(measure.effective_rank(torch.stack([_flat(w) for w in sounds]))),
        channels=len(sounds),
        complexity_rise=_entropy(everything[0]) / _entropy(mine) - 1 if everything else None,
        sounds={name: _flat(w) for name, w in named.items()},
        sample_rate=trial.rate,
    )


class _Trial:
    """One sonification and the means to make its controls."""

    def __init__(
        self, sonifier: Sonifier, found: Sonification, draws: torch.Generator, seeds: int
    ) -> None:
        self.sonifier, self.found, self.draws, self.seeds = sonifier, found, draws, seeds
        self.rate, self.channel = rate_and_channel(found, what="controls")
        self.whole = float(self._activations(found.input)[self.channel])
        self.owners = _owners(sonifier, found)

    def controls(self, other: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
        """Every control's name and its sounds, of the input's shape."""
        depths = min(DEPTHS, len(self.owners))
        for side in ("top", "bottom"):
            for depth in range(1, depths):
                sound = self._redrawn(self._chosen(side, depth / depths))
                yield f"{depth}/{depths} redrawn from the {side} (MPRT)", [sound]
        if self.owners:
            yield EVERYTHING, [self._redrawn(self.owners)]
        if place := self._filter():
            yield FILTER, [self._refiltered(*place) for _ in range(self.seeds)]
        yield RANDOM_SEED, [self._sonify(seed=self._random_seed) for _ in range(self.seeds)]
        if others := self._other_channels():
            yield OTHER_CHANNELS, others
        yield OTHER_SWITCHES, [self._sonify(other, seed=lambda _: self.found.activation)]
        yield from zip(BASELINES, ([sound] for sound in self._baselines()), strict=True)

    def audible(self, other: Tensor) -> dict[str, list[Tensor]]:
        """The controls without their silent sounds: a dead map is like nothing and says nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            groups = {k: [w for w in sounds if w.any()] for k, sounds in self.controls(other)}
        return {name: sounds for name, sounds in groups.items() if sounds}

    def row(self, name: str, sounds: Sequence[Tensor], answer: float) -> Control:
        """A control's line of the card."""
        mine, x, draws = self.found.waveform, self.found.input, len(sounds)
        mine_flat, flat = _flat(mine), torch.stack([_flat(sound) for sound in sounds])
        scores = torch.stack(
            [
                measure.spearman(mine_flat, flat),
                measure.log_mel_correlation(mine_flat, flat, sample_rate=self.rate),
                measure.mean_top_coherence(mine_flat, flat),
            ]
        )
        similarity = scores.clamp(min=0).mean(0)
        spearman, log_mel, coherence = scores.mean(1).tolist()
        return Control(
            control=name,
            draws=draws,
            spearman=spearman,
            log_mel=log_mel,
            coherence=coherence,
            similarity=float(similarity.mean()),
            spread=float(similarity.std(correction=0)),
            input=float(_coherence(mine, x) - sum(_coherence(w, x) for w in sounds) / draws),
            answer=answer - sum(map(self.answer, sounds)) / draws,
        )

    def answer(self, sound: Tensor) -> float:
        """The channel's activation on hearing a sound, over that on hearing the input."""
        heard = float(self._activations(sound)[self.channel])
        return heard / self.whole if self.whole else 0.0

    def _activations(self, sound: Tensor) -> Tensor:
        layer, tap = self.found.layer, self.found.tap
        return activations(self.sonifier, sound, layer=layer, tap=tap)[0]

    def _sonify(
        self,
        x: Tensor | None = None,
        *,
        seed: Seed = "activation",
        method: str = "deconvnet",
        sonifier: Sonifier | None = None,
    ) -> Tensor:
        found = (sonifier or self.sonifier).sonify(
            self.found.input if x is None else x,
            layer=self.found.layer,
            channel=self.channel,
            tap=self.found.tap,
            seed=seed,
            method=method,
        )
        return to_peak_of(self.found.input, found.raw)[0]

    def _redrawn(self, owners: Sequence[str]) -> Tensor:
        """The sonification with the weights of some modules redrawn."""
        return self._sonify(sonifier=redrawn(self.sonifier, owners, self.draws))

    def _chosen(self, side: str, share: float) -> list[str]:
        """The modules of a step of a cascade; `owners` are in the mirror's order, from the top."""
        count = math.ceil(share * len(self.owners))
        return self.owners[:count] if side == "top" else self.owners[len(self.owners) - count :]

    def _filter(self) -> tuple[str, int] | None:
        """Name of the weight that makes the layer's channels, and which of its axes counts them."""
        channels = self._activations(self.found.input).numel()
        own = dict(self.sonifier.model.named_parameters())
        for owner in self.owners:
            name = f"{owner}.weight".removeprefix(".")
            shape = own[name].shape if name in own else ()
            if len(shape) >= 2 and channels in shape[:2]:
                return name, list(shape[:2]).index(channels)
        return None

    def _refiltered(self, name: str, axis: int) -> Tensor:
        """The sonification with this channel's filter alone redrawn."""
        weight = self.sonifier.model.get_parameter(name).detach().clone()
        one = weight.select(axis, self.channel)
        one.copy_(shuffled(one, self.draws))
        return self._sonify(sonifier=self.sonifier.with_weights({name: weight}))

    def _random_seed(self, activation: Tensor) -> Tensor:
        return random_seed(activation, self.draws)

    def _other_channels(self) -> list[Tensor]:
        """Sonifications of the most active other channels."""
        heard = self._activations(self.found.input)
        ranked = heard.argsort(descending=True, stable=True).tolist()
        others = [c for c in ranked if c != self.channel and heard[c] != 0][:OTHERS]
        if not others:
            return []
        found = self.sonifier.sonify(
            self.found.input, layer=self.found.layer, channel=others, tap=self.found.tap
        )
        return list(found.waveform)

    def _baselines(self) -> Iterator[Tensor]:
        """The sounds named in `BASELINES`."""
        x = self.found.input
        maps = self.sonifier.maps(x, layer=self.found.layer, tap=self.found.tap)[0]
        gate = _upsampled(maps[self.channel], x)
        gradient = self._sonify(seed="ones", method="gradient")
        sounds = x, x * gate, gradient, x * gradient, _upsampled(maps.mean(0), x).expand_as(x)
        return (to_peak_of(x, sound)[0] for sound in sounds)


def _other_clip(x: Tensor, other: Any) -> Tensor:
    if other is None:
        return x.roll(x.shape[-1] // 2, -1)
    given = as_waveform(other).given.to(x)
    if given.shape != x.shape:
        raise InputError(
            f"The other clip does not fit: expected shape {tuple(x.shape)}, got "
            f"{tuple(given.shape)}. Cut or pad it to the length of the first."
        )
    return given


def _owners(sonifier: Sonifier, found: Sonification) -> list[str]:
    """Paths of the modules whose weights the mirror uses, in its order: from the top."""
    deconvnet = sonifier.deconvnet(found.input, found.layer, tap=found.tap)
    names = {id(w): name for name, w in sonifier.model.named_parameters()}
    paths = [names[id(w)].rpartition(".")[0] for w in deconvnet.parameters() if id(w) in names]
    return list(dict.fromkeys(paths))


def _flat(sound: Tensor) -> Tensor:
    """One clip of any shape, mixed down, (time,)."""
    return sound.reshape(-1, sound.shape[-1]).mean(0)


def _upsampled(activation: Tensor, x: Tensor) -> Tensor:
    """A map, (..., time), as a curve over the input's samples, (samples,)."""
    curve = activation.reshape(1, -1, activation.shape[-1]).mean(1, keepdim=True)
    upsampled = F.interpolate(curve, x.shape[-1], mode="linear", align_corners=False)
    return upsampled.reshape(-1)


def _coherence(sound: Tensor, x: Tensor) -> Tensor:
    return measure.mean_top_coherence(_flat(sound), _flat(x))


def _entropy(sound: Tensor) -> float:
    """Entropy in nats of the histogram of a waveform's values."""
    counts = torch.histc(_flat(sound).float().cpu(), BINS)
    return float(torch.special.entr(counts / counts.sum()).sum())


def _verdict(card: ControlCard) -> str:
    nearest = card.nearest
    if nearest is None:
        return (
            "Whether this sound is the channel's own cannot be told: no other channel of its layer "
            "is active, and it has no filter that could be redrawn."
        )
    like = f"{nearest.similarity:.2f} like {LIKE[nearest.control]}"
    if card.specific >= OWN:
        return f"Only {like}: this sound is specific to the channel."
    if card.specific <= SHARED:
        return f"{like}: this is mostly the input passing through the switches."
    return f"{like}: part of this sound is the channel's own, part the input passing through."
