"""Which construction finds what of a sonification is the channel's own? All of them, judged.

python -m benchmarks.contrast [--data DIR]

A quarter of an hour; writes CONTRAST.md beside this file. `--data` holds `esc10/`, for SoundNet-8
(see reference_models/soundnet.py). What was kept is `Sonifier.sonify(..., contrast="channels")`.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from benchmarks.controls import networks
from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonification, Sonifier, measure
from deconv1d.channels import ranked
from deconv1d.contrast import FRAME, OTHERS, contrasted
from deconv1d.evaluation.faithfulness import faithfulness
from deconv1d.mirror import Deconvnet
from deconv1d.sounding import to_peak_of

MAPS = 8
KINDS = ("Dog bark", "Rain", "Person sneeze", "Helicopter", "Chainsaw", "Rooster")
LAYERS = ("conv1", "conv3", "conv5", "conv7", "conv9", "conv11")
WINDOW = 0.032  # seconds
HEAD = (
    "network",
    "layer",
    "construction",
    "effective rank",
    "log-mel correlation",
    "mask-in",
    "rank",
    "selectivity",
    "energy left",
)


class Scene:
    """A clip's most active maps of a layer, and the means to sonify them.

    Attributes:
        plain: The sonifications of the most active maps, at most `MAPS`.
        count: How many these are.
        raw: Raw sonifications of these and, if there is one, of one more, which gives each of
            them `OTHERS` others.
        seeds: What was carried back for each of `raw`.
    """

    def __init__(self, sonifier: Sonifier, clip: Tensor, layer: str) -> None:
        self.sonifier, self.layer = sonifier, layer
        self.maps = sonifier.maps(clip, layer=layer)
        channels = ranked(self.maps, OTHERS + 1)[:, 0].tolist()
        self.plain = sonifier.sonify(clip, layer=layer, channel=channels[:MAPS])
        self.count = len(channels[:MAPS])
        self.deconvnet = sonifier.deconvnet(clip, layer)
        self.seeds = torch.zeros(len(channels), *self.maps.shape)
        for seed, channel in zip(self.seeds, channels, strict=True):
            seed[:, channel] = self.maps[:, channel]
        self.raw = self.deconvnet(self.seeds)

    @property
    def several(self) -> list[Tensor]:
        """For each of the maps its own raw sonification and its others', (1 + OTHERS, ...)."""
        return [_first(self.raw, number) for number in range(self.count)]


def _first(rows: Tensor, number: int) -> Tensor:
    """One of the rows, then the others."""
    return torch.cat([rows[number : number + 1], rows[:number], rows[number + 1 :]])


# --- the constructions: raw sonifications of the maps, contrasted --------------------------------


def projected(sounds: Tensor) -> Tensor:
    """The first sound off the span of the others."""
    own, others = sounds[0].flatten(), sounds[1:].flatten(1)
    basis = torch.linalg.svd(others.double(), full_matrices=False).Vh.to(own)
    return (own - own @ basis.T @ basis).reshape(sounds[0].shape)


def off_random_seeds(scene: Scene) -> list[Tensor]:
    """Off the span of sonifications of positive random seeds with the map's support."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for own, seed in zip(scene.raw[: scene.count], scene.seeds, strict=False):
        noise = torch.rand(OTHERS, *seed.shape, generator=draws) * (seed != 0)
        found.append(projected(torch.cat([own[None], scene.deconvnet(noise)])))
    return found


def in_frames(sounds: Tensor, frame: int) -> Tensor:
    """The first sound off the span of the others, in each frame."""
    return contrasted(sounds[0], sounds[1:], frame=frame)


def symmetric(sounds: Tensor) -> Tensor:
    """The first of the orthogonal sounds that are nearest to all (Loewdin 1950)."""
    rows = sounds.flatten(1).double()
    level = rows.norm(dim=1, keepdim=True)
    rows = rows / level
    values, vectors = torch.linalg.eigh(rows @ rows.T)
    mixed = vectors * values.clamp(min=1e-12).rsqrt() @ vectors.T
    return (mixed[0] @ rows * level[0]).reshape(sounds[0].shape).to(sounds)


def in_bands(sounds: Tensor, rate: int) -> Tensor:
    """The first sound off what filters of the others can say: its multiple coherence with them."""
    spectra = _stft(sounds, rate).movedim(0, 1).to(torch.complex128)  # (band, sound, frame)
    basis = torch.linalg.svd(spectra[:, 1:], full_matrices=False).Vh
    own = spectra[:, :1]
    return _istft(own - own @ basis.mH @ basis, sounds, rate)


def masked(sounds: Tensor, rate: int) -> Tensor:
    """The first sound where and so far as it has more power than the others on average."""
    level = sounds.flatten(1).norm(dim=1)
    spectra = _stft(sounds, rate) / level[:, None, None]
    own, others = spectra[0].abs().square(), spectra[1:].abs().square().mean(0)
    mask = (own - others).clamp(min=0) / own.clamp(min=1e-30)
    return _istft((mask * spectra[0] * level[0])[:, None], sounds, rate)


def _stft(sounds: Tensor, rate: int) -> Tensor:
    length = int(rate * WINDOW) // 4 * 4
    window = torch.hann_window(length)
    return torch.stft(sounds.flatten(1), length, length // 4, window=window, return_complex=True)


def _istft(spectrum: Tensor, sounds: Tensor, rate: int) -> Tensor:
    """(band, 1, frame) -> the shape of one of the sounds."""
    length = int(rate * WINDOW) // 4 * 4
    window, samples = torch.hann_window(length), sounds.shape[-1]
    spectrum = spectrum[:, 0].to(torch.complex64)
    return torch.istft(spectrum, length, length // 4, window=window, length=samples).reshape(
        sounds[0].shape
    )


def masked_after_projection(sounds: Tensor, rate: int) -> Tensor:
    """First in frames, then masked."""
    return masked(torch.cat([in_frames(sounds, FRAME)[None], sounds[1:]]), rate)


def with_random_signs(sounds: Tensor) -> Tensor:
    """No contrast: each stretch of 256 samples with a random sign."""
    samples = sounds.shape[-1]
    signs = torch.randint(0, 2, (samples // 256 + 1,)) * 2.0 - 1
    return sounds[0] * signs.repeat_interleave(256)[:samples]


class Layerwise(Interpreter):
    """Carries own and other seeds together, and contrasts the own signal after each rectifier."""

    def __init__(self, deconvnet: Deconvnet, contrast: Callable[[Tensor], Tensor]) -> None:
        super().__init__(deconvnet)
        self.contrast, self.carried = contrast, set()

    def run_node(self, n: Node) -> Tensor:
        """One op on all signals, or once where it has nothing to do with them."""
        sources = [node for node in n.all_input_nodes if node in self.carried]
        if n.op == "placeholder" or sources:
            self.carried.add(n)
        if n.op != "call_function" or not sources:
            return super().run_node(n)
        signals = [self.env[node] for node in sources]

        def one(*parts: Tensor) -> Tensor:
            self.env.update(zip(sources, parts, strict=True))
            return super(Layerwise, self).run_node(n)

        found = torch.func.vmap(one)(*signals)
        self.env.update(zip(sources, signals, strict=True))
        if n.target not in (torch.relu, torch.relu_):
            return found
        return torch.cat([self.contrast(found)[None], found[1:]])


def layerwise(scene: Scene, contrast: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The shared component taken off after each mirrored layer."""
    with torch.no_grad():
        return [
            Layerwise(scene.deconvnet, contrast).run(_first(scene.seeds, number))[0]
            for number in range(scene.count)
        ]


def inhibited(signals: Tensor) -> Tensor:
    """The first signal minus half the others' mean, all at one energy, rectified."""
    rows = signals.flatten(1)
    level = rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    rest = (rows / level)[0] - (rows / level)[1:].mean(0) / 2
    return (rest.clamp(min=0) * level[0]).reshape(signals[0].shape)


def seeds_inhibited(scene: Scene) -> list[Tensor]:
    """Lateral inhibition of the maps alone, moment by moment."""
    rows = scene.seeds.sum(2)  # one map each
    found = torch.zeros_like(scene.seeds[: scene.count])
    for number, seed in enumerate(scene.seeds[: scene.count]):
        found[number] = torch.where(seed != 0, inhibited(_first(rows, number))[:, None], 0)
    return list(scene.deconvnet(found))


def marginal(scene: Scene) -> list[Tensor]:
    """What all maps at once sound like, minus the same without this map."""
    everything = scene.deconvnet(scene.maps)
    return [everything - scene.deconvnet(scene.maps - seed) for seed in scene.seeds[: scene.count]]


def constructions(scene: Scene) -> dict[str, Callable[[], list[Tensor]]]:
    """Each by its name in the table."""
    rate = scene.sonifier.sample_rate

    def of_sounds(contrast: Callable[..., Tensor], *more: object) -> Callable[[], list[Tensor]]:
        return lambda: [contrast(sounds, *more) for sounds in scene.several]

    frames = {
        f"off other maps, frames of {length}": of_sounds(in_frames, length)
        for length in (256, FRAME, 4096)
    }
    return {
        "none": lambda: list(scene.raw[: scene.count]),
        "none, random signs": of_sounds(with_random_signs),
        "off random seeds, whole clip": partial(off_random_seeds, scene),
        "off other maps, whole clip": of_sounds(projected),
        **frames,
        "off other maps, frequency by frequency": of_sounds(in_bands, rate),
        "symmetric, whole clip": of_sounds(symmetric),
        "spectral mask": of_sounds(masked, rate),
        f"frames of {FRAME}, then spectral mask": of_sounds(masked_after_projection, rate),
        "layer-wise, projection": partial(layerwise, scene, projected),
        "layer-wise, inhibition": partial(layerwise, scene, inhibited),
        "seeds inhibited": partial(seeds_inhibited, scene),
        "all maps minus all but this": partial(marginal, scene),
    }


# --- the judges --------------------------------------------------------------------------------


def scores(scene: Scene, raw: list[Tensor]) -> list[float]:
    """The numbers of one clip's line."""
    plain, sounds = scene.plain, torch.stack(raw).reshape(scene.plain.raw.shape)
    found: Sonification = replace(plain, raw=sounds, waveform=to_peak_of(plain.input, sounds)[0])
    answers = faithfulness(scene.sonifier, found)
    flat = found.waveform.reshape(scene.count, -1)
    rate = scene.sonifier.sample_rate
    pairs = measure.log_mel_correlation(flat[:, None], flat[None], sample_rate=rate)
    left = sounds.reshape(scene.count, -1).square().sum(1) / plain.raw.reshape(
        scene.count, -1
    ).square().sum(1)
    return [
        rank_by_energy(flat),
        float((pairs.sum() - scene.count) / (scene.count * (scene.count - 1))),
        float((answers.mask_in / answers.activation).mean()),
        float(answers.rank_in.double().median()),
        float(answers.selectivity.median()),
        float(left.mean()),
    ]


def rank_by_energy(flat: Tensor) -> float:
    """As `measure.effective_rank`, of the singular values' energies rather than themselves."""
    rows = torch.nn.functional.normalize(flat.double())
    shares = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0) / len(rows)
    return float(torch.special.entr(shares).sum().exp())


def rows(name: str, sonifier: Sonifier, layer: str, clips: list[Tensor]) -> list[list[str]]:
    """A layer's lines: means over the clips (of selectivity the median)."""
    found: dict[str, list[list[float]]] = {}
    for clip in clips:
        scene = Scene(sonifier, clip, layer)
        for construction, build in constructions(scene).items():
            found.setdefault(construction, []).append(scores(scene, build()))
    lines = []
    for construction, each in found.items():
        rank, log_mel, mask, place, selectivity, left = zip(*each, strict=True)
        cells = (
            f"{fmean(rank):.1f}",
            f"{fmean(log_mel):.2f}",
            f"{fmean(mask):.2f}",
            f"{fmean(place):.0f}",
            f"{median(selectivity):.1f}",
            f"{fmean(left):.3f}",
        )
        lines.append([name, layer, construction, *cells])
        print(*lines[-1], sep=", ", flush=True)
    return lines


def main() -> None:
    """Writes CONTRAST.md."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="holds 'esc10'")
    given = parser.parse_args()
    torch.manual_seed(0)
    lines = [
        line
        for name, sonifier, layers, clips in networks(given.data, KINDS)
        for layer in layers
        if layer in LAYERS
        for line in rows(name, sonifier, layer, clips)
    ]
    body = (
        f"The {MAPS} most active maps of each clip (three spoken words; for SoundNet-8 six field "
        f"recordings), each contrasted with the {OTHERS} most active others. Of maps and clips "
        "the mean; of ranks the mean of the clips' medians, of selectivity the median.\n\n"
        f'- *Construction*: `contrast="channels"` is "off other maps, frames of {FRAME}" '
        '(samples). "None, random signs" is a control that contrasts nothing: each 256 samples of '
        "the plain sonification get a random sign. So much effective rank is to be had without "
        "any difference between the maps.\n"
        "- *Effective rank*: how many different sounds the maps' sonifications are (exponential of "
        "the entropy of the singular values' energies).\n"
        "- *Log-mel correlation*: mean over the pairs of maps; lower is more different to hear.\n"
        "- *Mask-in*: the map's activation on hearing its sonification, over that on the input; "
        "*rank*: the map's place among all of its layer on hearing it; *selectivity*: its "
        "activation over the other maps' median.\n"
        "- *Energy left*: of the raw sonification, before it is scaled.\n\n" + table(HEAD, lines)
    )
    write_page(
        HERE / "CONTRAST.md",
        "Contrast: what of a sonification is the channel's own",
        "python -m benchmarks.contrast",
        body,
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
