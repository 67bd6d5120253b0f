"""How far to trust a sonification: the same procedure where it must not work, and trivial sounds.

A control is a sound that owes nothing, or less, to what the channel learnt. Where the sonification
is like its controls, it says little about the channel. Names follow Quantus: MPRT is the model
parameter randomisation test, sMPRT the same between means over noisy inputs, eMPRT how much more
complex the explanation gets by it, Random Logit the comparison with other channels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv1d import measure
from deconv1d.channels import means
from deconv1d.contrast import OTHERS, contrasted
from deconv1d.errors import InputError, SilenceWarning
from deconv1d.evaluation.card import FILTER, OTHER_CHANNELS, Control, ControlCard, Own
from deconv1d.evaluation.faithfulness import activations
from deconv1d.evaluation.randomisation import random_seed, shuffle_weights, shuffled
from deconv1d.layers.axes import ordered
from deconv1d.record.waveform import as_waveform
from deconv1d.seeds import Seed
from deconv1d.sonification import Sonification, rate_and_channel
from deconv1d.sonify import Sonifier
from deconv1d.sounding import to_peak_of
from deconv1d.table import Table

DEPTHS = 4
BINS = 100
NOISE, NOISY = 0.1, 2  # of the input's range; how many noisy inputs

EVERYTHING = "all weights redrawn (MPRT)"
RANDOM_SEED = "random seed, same switches"
OTHER_SWITCHES = "switches of another clip"
CONTRASTED = "contrasted with other channels"
BASELINES = ("input", "input gated by activation", "gradient", "gradient x input", "mean map")


def control_card(
    sonifier: Sonifier,
    x: Any,
    *,
    layer: str,
    channel: int | str = "most_active",
    tap: str = "block",
    other: Any = None,
    draws: int = 3,
    random_state: int = 0,
) -> ControlCard:
    """A card with the controls of one channel's sonification; see `Sonifier.control_card`."""
    found = sonifier.sonify(x, layer=layer, channel=channel, tap=tap)
    trial = _Trial(sonifier, found, torch.Generator().manual_seed(random_state), draws)
    groups = trial.audible(_other_clip(found.input, other))
    mine, everything = found.waveform, groups.get(EVERYTHING)
    answer = trial.answer(mine)
    rows = [trial.row(name, sounds, answer) for name, sounds in groups.items()]
    own, others = trial.contrasted(), groups.get(OTHER_CHANNELS, [])
    sounds = [mine, *others]
    named = {"sonification": mine, CONTRASTED: own} | {k: group[0] for k, group in groups.items()}
    return ControlCard(
        layer=found.layer,
        channel=trial.channel,
        controls=Table(rows),
        input=float(_coherence(mine, found.input)),
        answer=answer,
        effective_rank=float(measure.effective_rank(torch.stack([_flat(w) for w in sounds]))),
        channels=len(sounds),
        complexity_rise=_entropy(everything[0]) / _entropy(mine) - 1 if everything else None,
        own=trial.own(own, others) if others and own.any() else None,
        smooth=trial.smooth(),
        sounds={name: _flat(w) for name, w in named.items() if w.any()},
        sample_rate=trial.rate,
    )


class _Trial:
    """One sonification and the means to make its controls."""

    def __init__(
        self, sonifier: Sonifier, found: Sonification, generator: torch.Generator, draws: int
    ) -> None:
        self.sonifier, self.found, self.generator, self.draws = sonifier, found, generator, draws
        self.rate, self.channel = rate_and_channel(found, what="controls")
        maps = sonifier.maps(found.input, layer=found.layer, tap=found.tap)
        self.maps, self.heard = ordered(maps)[0], means(maps)[0]
        self.owners = _owners(sonifier, found)
        self.rivals = self._other_channels()

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
            yield FILTER, [self._refiltered(*place) for _ in range(self.draws)]
        yield RANDOM_SEED, [self._sonify(seed=self._random_seed) for _ in range(self.draws)]
        if self.rivals is not None:
            yield OTHER_CHANNELS, list(self.rivals.waveform)
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
        mine, x, count = self.found.waveform, self.found.input, len(sounds)
        scores = self._scores(mine, sounds)
        similarity = scores.clamp(min=0).mean(0)
        spearman, log_mel, coherence = scores.mean(1).tolist()
        return Control(
            control=name,
            draws=count,
            spearman=spearman,
            log_mel=log_mel,
            coherence=coherence,
            similarity=float(similarity.mean()),
            similarity_std=float(similarity.std(correction=0)),
            input_coherence_margin=float(
                _coherence(mine, x) - sum(_coherence(w, x) for w in sounds) / count
            ),
            response_margin=answer - sum(map(self.answer, sounds)) / count,
        )

    def contrasted(self) -> Tensor:
        """The sonification with `contrast="channels"`; silent if there is no other channel."""
        if self.rivals is None:
            return torch.zeros_like(self.found.raw)
        raw = contrasted(self.found.raw, self.rivals.raw)
        return to_peak_of(self.found.input, raw)[0]

    def own(self, sound: Tensor, others: Sequence[Tensor]) -> Own:
        """What that comes to."""
        scores = self._scores(sound, others)
        return Own(similarity=float(scores.clamp(min=0).mean()), answer=self.answer(sound))

    def smooth(self) -> float | None:
        """sMPRT: similarity of two means over noisy inputs, as it is and with all weights redrawn.

        None if either is silent.

        Source: Hedström et al., "Sanity checks revisited" (2024), section 4.1; noise as in Quantus.
        """
        x, twin = self.found.input, shuffle_weights(self.sonifier, self.owners, self.generator)
        level = NOISE * (x.max() - x.min())
        noises = [torch.randn(x.shape, generator=self.generator).to(x) for _ in range(NOISY)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            mine, theirs = (
                torch.stack([self._sonify(x + level * n, sonifier=each) for n in noises]).mean(0)
                for each in (self.sonifier, twin)
            )
        heard = bool(mine.any() and theirs.any())
        return float(self._scores(mine, [theirs]).clamp(min=0).mean()) if heard else None

    def _scores(self, mine: Tensor, sounds: Sequence[Tensor]) -> Tensor:
        """|Spearman|, log-mel correlation and coherence with each of the sounds, (3, sounds)."""
        mine, flat = _flat(mine), torch.stack([_flat(sound) for sound in sounds])
        return torch.stack(
            [
                measure.spearman(mine, flat),
                measure.log_mel_correlation(mine, flat, sample_rate=self.rate),
                measure.mean_top_coherence(mine, flat),
            ]
        )

    def answer(self, sound: Tensor) -> float:
        """The channel's activation on hearing a sound, over that on hearing the input."""
        layer, tap, whole = self.found.layer, self.found.tap, float(self.heard[self.channel])
        heard = activations(self.sonifier, sound, layer=layer, tap=tap)[0, self.channel]
        return float(heard) / whole if whole else 0.0

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
        return self._sonify(sonifier=shuffle_weights(self.sonifier, owners, self.generator))

    def _chosen(self, side: str, share: float) -> list[str]:
        """The modules of a step of a cascade; `owners` are in the mirror's order, from the top."""
        count = math.ceil(share * len(self.owners))
        return self.owners[:count] if side == "top" else self.owners[len(self.owners) - count :]

    def _filter(self) -> tuple[str, int] | None:
        """Name of the weight that makes the layer's channels, and which of its axes counts them."""
        channels = self.heard.numel()
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
        one.copy_(shuffled(one, self.generator))
        return self._sonify(sonifier=self.sonifier.with_weights({name: weight}))

    def _random_seed(self, activation: Tensor) -> Tensor:
        return random_seed(activation, self.generator)

    def _other_channels(self) -> Sonification | None:
        """Of the most active other channels, if any is active."""
        ranked = self.heard.argsort(descending=True, stable=True).tolist()
        others = [c for c in ranked if c != self.channel and self.heard[c] != 0][:OTHERS]
        if not others:
            return None
        x, layer, tap = self.found.input, self.found.layer, self.found.tap
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            return self.sonifier.sonify(x, layer=layer, channel=others, tap=tap)

    def _baselines(self) -> Iterator[Tensor]:
        """The sounds named in `BASELINES`."""
        x = self.found.input
        gate = _upsampled(self.maps[self.channel], x)
        gradient = self._sonify(seed="ones", method="gradient")
        sounds = x, x * gate, gradient, x * gradient, _upsampled(self.maps.mean(0), x).expand_as(x)
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
