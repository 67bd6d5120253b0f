"""How far to trust a sonification: the same procedure where it must not work, and trivial sounds.

A control is a sound that owes nothing, or less, to what the channel learnt. The model hears the
sonification and every control: where it responds to them alike, the sonification says little about
the channel. Names follow Quantus and the papers: MPRT is the model parameter randomisation test
(Adebayo et al. 2018), here with each weight's values permuted; sMPRT the same between means over
noisy inputs and eMPRT how much more complex the explanation gets by it (Hedström et al. 2024);
Random Logit the comparison with other channels (Sixt et al. 2020).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv1d import measure
from deconv1d.channels import means
from deconv1d.errors import InputError, SilenceWarning
from deconv1d.evaluation.ablation import OTHERS, ablation
from deconv1d.evaluation.card import (
    EVERYTHING,
    FILTER,
    GIVEN_TWIN,
    OTHER_CHANNELS,
    RANDOM_SEED,
    Control,
    ControlCard,
    Full,
)
from deconv1d.evaluation.faithfulness import activations
from deconv1d.evaluation.hearing import to_rms
from deconv1d.evaluation.randomisation import (
    cosine_convergence,
    random_seed,
    shuffle_weights,
    shuffled,
)
from deconv1d.layers.axes import ordered
from deconv1d.progress import bar
from deconv1d.record.waveform import as_waveform
from deconv1d.seeds import Seed
from deconv1d.sonification import Sonification, rate_and_channel
from deconv1d.sounding import to_peak_of
from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier

DEPTHS = 4
FEW = 2
"""So many other channels are silenced on a quick card."""
BINS = 100
RIVALS = 8
NOISE, NOISY = 0.1, 50  # of the input's range; how many noisy inputs, as in the paper

OTHER_SWITCHES = "switches of another clip"
BASELINES = ("input", "input gated by activation", "gradient", "gradient x input", "mean map")


def control_card(
    sonifier: Sonifier,
    x: Any,
    *,
    layer: str,
    channel: int | str = "most_active",
    tap: str = "block",
    other: Any = None,
    twin: Sonifier | None = None,
    full: bool = False,
    quick: bool = False,
    draws: int = 3,
    random_state: int = 0,
    progress: bool = False,
) -> ControlCard:
    """A card with the controls of one channel's sonification; see `Sonifier.control_card`."""
    if quick and full:
        raise InputError(
            "A card is quick or full: expected one of them, got both. Leave out quick or full."
        )
    sonification = sonifier.sonify(x, layer=layer, channel=channel, tap=tap)
    generator = torch.Generator().manual_seed(random_state)
    trial = _Trial(sonifier, sonification, generator, 1 if quick else draws, quick=quick)
    clip = _other_clip(sonification, other)
    with bar(total=trial.steps(twin, full=full), desc="card", unit="steps", shown=progress) as done:
        trial.done = done.update
        return _card_of(trial, clip, twin, full=full, random_state=random_state)


def _card_of(
    trial: _Trial, other: Tensor, twin: Sonifier | None, *, full: bool, random_state: int
) -> ControlCard:
    """Makes the controls, and listens to them."""
    sonifier, sonification = trial.sonifier, trial.sonification
    groups = trial.audible(other, twin, full=full)
    mine, everything = sonification.waveform, groups.get(EVERYTHING)
    heard = trial.hear(mine)
    rise = _entropy(everything[0]) / _entropy(mine) - 1 if full and everything else None
    alone, others = trial.ablation()
    named = {"input": sonification.input, "sonification": mine} | {
        k: group[0] for k, group in groups.items()
    }
    return ControlCard(
        layer=sonification.layer,
        channel=trial.channel,
        controls=Table([trial.row(name, sounds) for name, sounds in groups.items()]),
        response=heard.response,
        place=heard.place,
        place_on_input=trial.place(trial.heard),
        channels=trial.heard.numel(),
        told=heard.told,
        input=_above_noise(
            measure.mean_top_coherence(_flat(mine), _flat(sonification.input)), mine
        ),
        convergence=cosine_convergence(sonifier, sonification, random_state=random_state),
        ablation=alone,
        ablation_others=others,
        full=Full(rise, trial.smooth()) if full else None,
        sounds={name: _flat(w) for name, w in named.items() if w.any()},
        sample_rate=trial.rate,
        verified=sonification.verified,
    )


class _Heard(NamedTuple):
    """How a layer responds to a sound at the input's RMS."""

    response: float
    place: int
    told: bool | None


class _Trial:
    """One sonification and the means to make its controls."""

    def __init__(
        self,
        sonifier: Sonifier,
        sonification: Sonification,
        generator: torch.Generator,
        draws: int,
        *,
        quick: bool = False,
    ) -> None:
        self.sonifier, self.sonification = sonifier, sonification
        self.generator, self.draws, self.quick = generator, draws, quick
        self.done: Callable[[], object] = lambda: None
        self.input = sonification.input
        self.rate, self.channel = rate_and_channel(sonification, what="controls")
        maps = sonifier.maps(sonification.input, layer=sonification.layer, tap=sonification.tap)
        self.maps, self.heard = ordered(maps)[0], means(maps)[0]
        self.owners = _owners(sonifier, sonification)
        ranked = self.heard.argsort(descending=True, stable=True).tolist()
        others = [c for c in ranked if c != self.channel and self.heard[c] > 0]
        self.rivals = others[:RIVALS]

    def steps(self, twin: Sonifier | None, *, full: bool) -> int:
        """How many sounds are made and heard, if none is silent: for the remaining time."""
        drawn = self.draws * (1 + bool(self.owners) + (self._filter() is not None))
        drawn += twin is not None
        if full:  # the cascades and the other switches; the baselines need one sonification
            drawn += 2 * max(0, min(DEPTHS, len(self.owners)) - 1) + 1
        more = 1 + len(BASELINES) + 2 * NOISY if full else 0
        # Each is made and heard. The rivals' sounds are made at once, and not counted.
        return 1 + 2 * drawn + len(self.rivals) + more

    def controls(
        self, other: Tensor, twin: Sonifier | None, *, full: bool
    ) -> Iterator[tuple[str, list[Tensor]]]:
        """Every control's name and its sounds, of the input's shape."""
        times = range(self.draws)
        if self.owners:
            yield EVERYTHING, [self._permuted(self.owners) for _ in times]
        if place := self._filter():
            yield FILTER, [self._refiltered(*place) for _ in times]
        if twin is not None:
            yield GIVEN_TWIN, [self._sonify(sonifier=twin)]
        yield RANDOM_SEED, [self._sonify(seed=self._random_seed) for _ in times]
        if self.rivals:
            yield OTHER_CHANNELS, self._other_channels()
        if full:
            yield from self._cascades()
            yield OTHER_SWITCHES, [self._sonify(other, seed=lambda _: self.sonification.activation)]
            yield from zip(BASELINES, ([sound] for sound in self._baselines()), strict=True)

    def _cascades(self) -> Iterator[tuple[str, list[Tensor]]]:
        depths = min(DEPTHS, len(self.owners))
        for side in ("top", "bottom"):
            # The last step would permute all weights: that is the control `EVERYTHING`.
            for depth in range(1, depths):
                sound = self._permuted(self._chosen(side, depth / depths))
                yield f"{depth}/{depths} permuted from the {side} (MPRT)", [sound]

    def audible(
        self, other: Tensor, twin: Sonifier | None, *, full: bool
    ) -> dict[str, list[Tensor]]:
        """The controls without their silent sounds: a dead map is like nothing and says nothing."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SilenceWarning)
            every = self.controls(other, twin, full=full)
            groups = {k: [w for w in sounds if w.any()] for k, sounds in every}
        return {name: sounds for name, sounds in groups.items() if sounds}

    def row(self, name: str, sounds: Sequence[Tensor]) -> Control:
        """A control's line of the card."""
        scores = self._scores(self.sonification.waveform, sounds)
        similarity = scores.clamp(min=0).mean(0)
        spearman, log_mel, coherence = scores.mean(1).tolist()
        heard = [self.hear(sound) for sound in sounds]
        told = [each.told for each in heard if each.told is not None]
        return Control(
            control=name,
            draws=len(sounds),
            response=sum(each.response for each in heard) / len(sounds),
            told=sum(told) / len(told) if told else None,
            similarity=float(similarity.mean()),
            similarity_std=float(similarity.std(correction=0)),
            spearman=spearman,
            log_mel=log_mel,
            coherence=coherence,
        )

    def ablation(self) -> tuple[float | None, float | None]:
        """How much the output changes without the channel, and without random other ones."""
        if (place := self._filter()) is None:
            return None, None
        others = FEW if self.quick else OTHERS
        return ablation(
            self.sonifier, self.input, *place, self.channel, self.generator, others=others
        )

    def smooth(self) -> float | None:
        """sMPRT: similarity of two means over noisy inputs, as it is and with all weights permuted.

        None if either is silent.

        Source: Hedström et al., "Sanity checks revisited" (2024), section 4.1; noise as in Quantus.
        """
        x, twin = self.input, shuffle_weights(self.sonifier, self.owners, self.generator)
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
        coherence = measure.mean_top_coherence(mine, flat)
        return torch.stack(
            [
                measure.spearman(mine, flat),
                measure.log_mel_correlation(mine, flat, sample_rate=self.rate),
                torch.stack([mine.new_tensor(_above_noise(c, mine)) for c in coherence]),
            ]
        )

    def hear(self, sound: Tensor) -> _Heard:
        """How the layer responds to a sound, at the input's RMS."""
        self.done()
        x, layer, tap = self.input, self.sonification.layer, self.sonification.tap
        level = x.square().mean().sqrt()
        # One level for all audio channels together, which keeps the balance between them.
        flat = to_rms(sound.reshape(1, -1), level).reshape(sound.shape)
        heard = activations(self.sonifier, flat, layer=layer, tap=tap)[0]
        on_input = float(self.heard[self.channel])
        # A channel that is silent on the input leaves nothing to be relative to.
        if not on_input:
            return _Heard(0.0, self.place(heard), None)
        rivals = heard[self.rivals] / self.heard[self.rivals]
        response = float(heard[self.channel]) / on_input
        told = response > float(rivals.max()) if self.rivals else None
        return _Heard(response, self.place(heard), told)

    def place(self, heard: Tensor) -> int:
        """The channel's place among all, 1 the most active, from their activations."""
        return int((heard > heard[self.channel]).sum()) + 1

    def _sonify(
        self,
        x: Tensor | None = None,
        *,
        seed: Seed = "activation",
        method: str = "deconvnet",
        sonifier: Sonifier | None = None,
    ) -> Tensor:
        self.done()
        sonified = (sonifier or self.sonifier).sonify(
            self.input if x is None else x,
            layer=self.sonification.layer,
            channel=self.channel,
            tap=self.sonification.tap,
            seed=seed,
            method=method,
        )
        # Always by the peak of the card's own input, also where another clip or a twin made it.
        return to_peak_of(self.input, sonified.raw)[0]

    def _permuted(self, owners: Sequence[str]) -> Tensor:
        """The sonification with the weights of some modules permuted."""
        return self._sonify(sonifier=shuffle_weights(self.sonifier, owners, self.generator))

    def _chosen(self, side: str, share: float) -> list[str]:
        """The modules of a step of a cascade; `owners` are in the mirror's order, from the top."""
        count = math.ceil(share * len(self.owners))
        return self.owners[:count] if side == "top" else self.owners[len(self.owners) - count :]

    def _filter(self) -> tuple[str, int] | None:
        """Name of the weight that makes the layer's channels, and which of its axes counts them."""
        channels = self.heard.numel()
        parameters = dict(self.sonifier.model.named_parameters())
        for owner in self.owners:
            name = f"{owner}.weight".removeprefix(".")
            shape = parameters[name].shape if name in parameters else ()
            # Convolutions count output channels on axis 0, transposed ones on axis 1. Owners are
            # in order from the top, so the first that fits is nearest to the map.
            if len(shape) >= 2 and channels in shape[:2]:
                return name, list(shape[:2]).index(channels)
        return None

    def _refiltered(self, name: str, axis: int) -> Tensor:
        """The sonification with this channel's filter alone permuted."""
        weight = self.sonifier.model.get_parameter(name).detach().clone()
        one = weight.select(axis, self.channel)
        one.copy_(shuffled(one, self.generator))
        return self._sonify(sonifier=self.sonifier.with_weights({name: weight}))

    def _random_seed(self, activation: Tensor) -> Tensor:
        return random_seed(activation, self.generator)

    def _other_channels(self) -> list[Tensor]:
        sonified = self.sonifier.sonify(
            self.input,
            layer=self.sonification.layer,
            channel=self.rivals,
            tap=self.sonification.tap,
        )
        return list(sonified.waveform)

    def _baselines(self) -> Iterator[Tensor]:
        """The sounds named in `BASELINES`."""
        x = self.input
        gate = _upsampled(self.maps[self.channel], x)
        gradient = self._sonify(seed="ones", method="gradient")
        sounds = x, x * gate, gradient, x * gradient, _upsampled(self.maps.mean(0), x).expand_as(x)
        return (to_peak_of(x, sound)[0] for sound in sounds)


def _other_clip(sonification: Sonification, other: Any) -> Tensor:
    x = sonification.input
    if other is None:
        return x.roll(x.shape[-1] // 2, -1)
    given = as_waveform(other, sonification.sample_rate).given.to(x)
    if given[None].shape == x.shape:  # (channels, time), as the first clip may be given
        given = given[None]
    if given.shape != x.shape:
        raise InputError(
            f"The other clip does not fit: expected shape {tuple(x.shape)}, got "
            f"{tuple(given.shape)}. Cut or pad it to the length of the first."
        )
    return given


def _owners(sonifier: Sonifier, sonification: Sonification) -> list[str]:
    """Paths of the modules whose weights the mirror uses, in its order: from the top."""
    deconvnet = sonifier.deconvnet(sonification.input, sonification.layer, tap=sonification.tap)
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


def _above_noise(coherence: Tensor, like: Tensor) -> float:
    """A coherence above that of unrelated noise of this length, as a share of the rest to 1."""
    chance = measure.unrelated_coherence(like.shape[-1])
    return max(0.0, (float(coherence) - chance) / (1 - chance))


def _entropy(sound: Tensor) -> float:
    """Entropy in nats of the histogram of a waveform's values."""
    counts = torch.histc(_flat(sound).float().cpu(), BINS)
    return float(torch.special.entr(counts / counts.sum()).sum())
