"""Contrastive pretraining of CNN12 by SimCLR (section 3.1, appendix A.2).

    python -m reference_models.data --events A --lasting --out cache/events-a
    python -m reference_models.simclr cache/events-a --preset lasting-events --out runs/simclr

On eight GPUs:

    torchrun --nproc-per-node 8 -m reference_models.simclr cache/audioset --preset audioset
        --out runs/simclr

Killed, it goes on where it was when started again; finished, it only reads its result. How good
the encoder is, `reference_models.supervised --frozen --encoder ...` tells.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reference_models.augment import AUGMENTATIONS, Augmentation, augment
from reference_models.batches import Batches, ahead, crop_samples, full_batches, seeded
from reference_models.channels_last import quick
from reference_models.cnn12 import CNN12, projection_head
from reference_models.command_line import run_program
from reference_models.data import SAMPLE_RATE, ClipSet
from reference_models.denormals import denormals_as_zeros
from reference_models.distributed import rank, replicate
from reference_models.initialisation import initialise
from reference_models.nt_xent import nt_xent
from reference_models.run import Run
from reference_models.schedule import learning_rate


@dataclass(frozen=True)
class Settings:
    """What a contrastive run is; the defaults are the paper's, and ours where it is silent."""

    width: float = 1.0
    """Scales the number of filters of every convolution."""
    pooling: Literal["max", "stride"] = "max"
    """How time is halved."""
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    """What to train on."""
    seconds: float = 2.5
    """Length of each of the two crops of a clip."""
    gap: float = 0.25
    """Seconds between the two crops, at least; below 0: they may overlap."""
    batch_size: int = 2048
    """Clips in a batch, of all processes together."""
    one_speaker: bool = False
    """Only clips of one speaker in a batch: voices then do not tell them apart."""
    epochs: int = 50
    """Passes over the training clips."""
    warmup_epochs: float = 10.0
    """Epochs in which the learning rate rises."""
    peak_rate: float = 1e-3
    """Highest learning rate of Adam."""
    weight_decay: float = 1e-3
    """L2 penalty in Adam."""
    temperature: float = 0.1
    """Tau of the loss."""
    head_norm: bool = False
    """Standardise in the projection head, over a process' batch."""
    negatives: Literal["global", "local"] = "global"
    """Views to compare with."""
    augmentations: tuple[Augmentation, ...] = tuple(AUGMENTATIONS)
    """What to do to the crops."""
    bfloat16: bool = False
    """Run the network in bfloat16 (faster on recent GPUs)."""
    keep_every: int = 1
    """Epochs from one kept checkpoint to the next."""
    sonify_every: int = 5
    """Epochs from one logged sonification to the next, 0 for none."""
    random_state: int = 0
    """Of everything that is drawn."""


PRESETS = {
    "audioset": Settings(),
    "events": Settings(width=1 / 8, batch_size=32, epochs=40, warmup_epochs=8, peak_rate=3e-4),
    "arabic-commands": Settings(
        width=1 / 8,
        seconds=0.6,
        gap=-0.55,
        batch_size=32,
        one_speaker=True,
        epochs=60,
        warmup_epochs=6,
        weight_decay=0.0,
        head_norm=True,
        keep_every=12,
        sonify_every=0,
    ),
    "lasting-events": Settings(
        width=1 / 8,
        seconds=1.25,
        batch_size=32,
        epochs=12,
        warmup_epochs=2.4,
        peak_rate=5e-4,
        sonify_every=0,
    ),
}


@denormals_as_zeros()
def train(
    clips: ClipSet, settings: Settings, folder: str | Path, *, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Pretrains an encoder in a folder and returns its result, which is also `result.json` there.

    Args:
        clips: With the splits "train" and "val" (its loss after each epoch is in the history).
            Their labels are not looked at.
        settings: What to train.
        folder: Of this run alone; checkpoints `epoch-000.safetensors` and so on go there. With a
            run that was interrupted in it, that run goes on; with a finished one, nothing is done.
        device: Where the model is to be.

    Returns:
        Settings, data, versions and history.

    Raises:
        ValueError: The folder holds another run, or the clips fill no batch.
        FloatingPointError: The loss is no longer finite.
    """
    run = Run(folder, settings, clips)
    if result := run.result():
        return result
    torch.manual_seed(settings.random_state)
    encoder = initialise(CNN12(width=settings.width, pooling=settings.pooling))
    model = nn.Sequential(
        OrderedDict(encoder=encoder, projection=projection_head(normalised=settings.head_norm))
    ).to(device)
    fit(model, clips, settings, run)
    return run.finish()


def fit(model: nn.Sequential, clips: ClipSet, settings: Settings, run: Run) -> None:
    """Trains `model`, from waveforms to projections; an interrupted run goes on where it was.

    With few speakers the voice alone tells most pairs of a mixed batch apart, and that is what the
    encoder then learns. With the clips of one speaker in a batch it has to hear the words.
    """
    device = next(model.parameters()).device
    training, validation = clips.subset(*settings.splits), clips.subset("val")
    samples, gap = crop_samples(settings.seconds), round(settings.gap * SAMPLE_RATE)
    speakers = training.speakers() if settings.one_speaker else None
    batches = Batches(len(training), settings.batch_size, settings.random_state, speakers)
    total, warmup = settings.epochs * len(batches), round(settings.warmup_epochs * len(batches))
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=settings.weight_decay)
    first = run.resume(model, optimizer)
    replica = replicate(quick(model)).train()

    def draw(step: int) -> tuple[Tensor, Tensor]:
        generator = seeded("cpu", "crops", settings.random_state, step, rank())
        return training.two_crops(batches[step], samples, gap=gap, generator=generator)

    for step, crops in ahead(draw, range(first, total)):
        generator = seeded(device, "augment", settings.random_state, step, rank())
        torch.manual_seed(generator.initial_seed())  # dropout has no generator of its own
        one, two = (
            augment(crop.to(device), settings.augmentations, generator=generator) for crop in crops
        )

        rate = learning_rate(step, peak=settings.peak_rate, warmup=warmup, total=total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            one, two = replica(torch.cat([one, two])).float().chunk(2)
        loss = nt_xent(one, two, temperature=settings.temperature, negatives=settings.negatives)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        epoch_ends = (step + 1) % len(batches) == 0
        if epoch_ends:
            run.check_loss(loss.item())
            held_out = validation_loss(model, validation, settings)
            run.end_epoch(model, loss=loss.item(), rate=rate, val_loss=held_out)
        run.save(model, optimizer, step + 1, now=epoch_ends)


@torch.no_grad()
def validation_loss(model: nn.Module, clips: ClipSet, settings: Settings) -> float:
    """Returns the mean loss on held-out clips: the same crops each time, without augmentations.

    Args:
        model: From waveforms to projections.
        clips: At least two; in batches of the run's size, or as large as they fill. As in training,
            the last clips that fill none are left out.
        settings: Of the run.
    """
    device = next(model.parameters()).device
    samples, gap = crop_samples(settings.seconds), round(settings.gap * SAMPLE_RATE)
    speakers = clips.speakers() if settings.one_speaker else None
    together = len(clips) if speakers is None else max(Counter(speakers).values())
    size = min(settings.batch_size, together)
    generator = seeded("cpu", "validation")
    losses = []
    model.eval()
    for batch in full_batches(len(clips), size, speakers, generator=generator):
        crops = clips.two_crops(batch, samples, gap=gap, generator=generator)
        one, two = (model(crop.to(device)).float() for crop in crops)
        loss = nt_xent(one, two, temperature=settings.temperature, negatives="local")
        losses.append(loss.item())
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    """Trains as the command line says."""
    run_program(train, PRESETS, program="reference_models.simclr", about=__doc__)


if __name__ == "__main__":
    main()
