"""Supervised training of CNN12, from scratch or from pretrained weights (appendix A.3).

    python -m reference_models.data --words 120 --out cache/words
    python -m reference_models.supervised cache/words --preset words --out runs/words

On eight GPUs, from contrastive weights:

    torchrun --nproc-per-node 8 -m reference_models.supervised cache/audioset --preset audioset
        --encoder runs/simclr/epoch-050.safetensors --out runs/audioset

Killed, it goes on where it was when started again; finished, it only reads its result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference_models.augment import AUGMENTATIONS, Augmentation, augment, mixup
from reference_models.batches import Batches, ahead, crop_samples, seeded
from reference_models.channels_last import quick
from reference_models.checkpoint import load_encoder
from reference_models.cnn12 import CNN12, classifier, probe
from reference_models.command_line import run_program
from reference_models.data import ClipSet
from reference_models.denormals import denormals_as_zeros
from reference_models.distributed import rank, replicate
from reference_models.evaluate import metrics, predict
from reference_models.initialisation import initialise
from reference_models.probe import Probe, choose_probe, fit_probe
from reference_models.run import Run
from reference_models.schedule import learning_rate


@dataclass(frozen=True)
class Settings:
    """What a supervised run is; the defaults are the paper's, and ours where it is silent.

    With `frozen` the head is a fitted probe (`reference_models.probe`) on embeddings of the whole
    clips, computed once: of the settings only `width`, `layers`, `encoder` and `splits` then count.
    """

    width: float = 1.0
    """Scales the number of filters of every convolution."""
    pooling: Literal["max", "stride"] = "max"
    """How time is halved."""
    layers: int = 0
    """Blocks to keep, with the head on their mean over time; 0: all."""
    encoder: str = ""
    """Checkpoint whose encoder to start from, of either program."""
    frozen: bool = False
    """Fit the linear head alone (the paper's fonly)."""
    splits: tuple[Literal["train", "val"], ...] = ("train",)
    """What to train on."""
    seconds: float = 1.0
    """Length of the random crops."""
    batch_size: int = 128
    """Clips in a batch, of all processes together."""
    epochs: int = 50
    """Passes over the training clips."""
    warmup_epochs: float = 10.0
    """Epochs in which the learning rate rises."""
    peak_rate: float = 1e-3
    """Highest learning rate of Adam."""
    weight_decay: float = 1e-3
    """L2 penalty in Adam; see `benchmarks/WEIGHT_DECAY.md` for what it does on few clips."""
    augmentations: tuple[Augmentation, ...] = ("gain", "noise", "time_mask")
    """What to do to the crops."""
    mixup: float = 0.3
    """Alpha of mixup's Beta(alpha, alpha), 0 for none."""
    bfloat16: bool = False
    """Run the network in bfloat16 (faster on recent GPUs)."""
    keep_every: int = 1
    """Epochs from one kept checkpoint to the next."""
    sonify_every: int = 5
    """Epochs from one logged sonification to the next, 0 for none."""
    random_state: int = 0
    """Of everything that is drawn."""


# Crops and batches of appendix A.3 (no clip of Speech Commands is longer than its crop), and
# settings for small machines.
PRESETS = {
    "audioset": Settings(seconds=5.0, batch_size=1024),
    "audioset-balanced": Settings(seconds=5.0, batch_size=128),
    "fsd50k": Settings(seconds=2.5, batch_size=64),
    "speech-commands": Settings(seconds=1.0, batch_size=128),
    "events": Settings(
        width=1 / 8, seconds=2.5, batch_size=32, epochs=20, warmup_epochs=4, weight_decay=0.0
    ),
    "arabic-commands": Settings(
        width=1 / 8,
        batch_size=32,
        epochs=30,
        warmup_epochs=3,
        weight_decay=0.0,
        augmentations=tuple(AUGMENTATIONS),
        keep_every=30,
        sonify_every=0,
    ),
    "small-speech-commands": Settings(
        width=1 / 8,
        batch_size=32,
        epochs=20,
        warmup_epochs=2,
        weight_decay=0.0,
        augmentations=tuple(AUGMENTATIONS),
        keep_every=20,
        sonify_every=0,
    ),
    "esc10": Settings(
        width=1 / 8,
        seconds=2.5,
        batch_size=32,
        epochs=40,
        warmup_epochs=4,
        weight_decay=0.0,
        keep_every=40,
        sonify_every=0,
    ),
    "words": Settings(
        width=1 / 8, seconds=1.0, batch_size=32, epochs=20, warmup_epochs=4, weight_decay=0.0
    ),
}


@denormals_as_zeros()
def train(
    clips: ClipSet, settings: Settings, folder: str | Path, *, device: str | torch.device = "cpu"
) -> dict[str, Any]:
    """Trains a classifier in a folder and returns its result, which is also `result.json` there.

    Args:
        clips: With the splits "train", "val" (scored after each epoch; it says little once
            `splits` has it too) and "test" (scored once, at the end).
        settings: What to train.
        folder: Of this run alone; checkpoints `epoch-000.safetensors` and so on go there. With a
            run that was interrupted in it, that run goes on; with a finished one, nothing is done.
        device: Where the model is to be.

    Returns:
        Settings, classes, data, versions, history, and the metrics "val" and "test"; with `frozen`
        also "probe", how the head was fitted.

    Raises:
        ValueError: The folder holds another run, or the encoder does not fit.
        FloatingPointError: The loss is no longer finite.
    """
    run = Run(folder, settings, clips)
    if result := run.result():
        return result
    torch.manual_seed(settings.random_state)
    if settings.encoder:
        encoder = load_encoder(settings.encoder, width=settings.width)
    else:
        encoder = initialise(CNN12(width=settings.width, pooling=settings.pooling))
    if settings.layers:
        model = probe(encoder, layers=settings.layers, classes=len(clips.classes)).to(device)
    else:
        model = classifier(encoder, classes=len(clips.classes)).to(device)
    about: dict[str, Any] = {}
    if settings.frozen:
        about["probe"] = fit_head(model, clips, settings.splits).about()
        run.save_weights(model, settings.epochs)
    else:
        fit(model, clips, settings, run)
    scores = {split: score(model, clips.subset(split)) for split in ("val", "test")}
    return run.finish(**about, **scores)


def fit(model: nn.Sequential, clips: ClipSet, settings: Settings, run: Run) -> None:
    """Trains the whole of `model` on random crops; an interrupted run goes on where it was."""
    device = next(model.parameters()).device
    training, validation = clips.subset(*settings.splits), clips.subset("val")
    criterion = F.binary_cross_entropy_with_logits if clips.multilabel else F.cross_entropy
    samples = crop_samples(settings.seconds)
    batches = Batches(len(training), settings.batch_size, settings.random_state)
    total, warmup = settings.epochs * len(batches), round(settings.warmup_epochs * len(batches))
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=settings.weight_decay)
    first = run.resume(model, optimizer)
    replica = replicate(quick(model)).train()

    def draw(step: int) -> tuple[Tensor, Tensor]:
        numbers = batches[step]
        generator = seeded("cpu", "crops", settings.random_state, step, rank())
        return training.crops(numbers, samples, generator=generator), training.labels(numbers)

    for step, (waveforms, labels) in ahead(draw, range(first, total)):
        generator = seeded(device, "augment", settings.random_state, step, rank())
        torch.manual_seed(generator.initial_seed())  # dropout has no generator of its own
        waveforms = augment(waveforms.to(device), settings.augmentations, generator=generator)
        targets = as_targets(labels.to(device), classes=len(clips.classes))
        if settings.mixup:
            waveforms, targets = mixup(
                waveforms, targets, generator=generator, alpha=settings.mixup
            )

        rate = learning_rate(step, peak=settings.peak_rate, warmup=warmup, total=total)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
            logits = replica(waveforms)
        loss = criterion(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        epoch_ends = (step + 1) % len(batches) == 0
        if epoch_ends:
            run.check_loss(loss.item())
            run.end_epoch(model, loss=loss.item(), rate=rate, **score(model, validation))
        run.save(model, optimizer, step + 1, now=epoch_ends)


def fit_head(model: nn.Sequential, clips: ClipSet, splits: Sequence[str] = ("train",)) -> Probe:
    """Fits the head of a network on what the rest of it makes of whole clips.

    Args:
        model: Its last module is the head, `nn.Linear`, which is filled in place.
        clips: The strength of the penalty is chosen by fits on "train", scored on "val".
        splits: What the head is then fitted on.

    Returns:
        The probe whose weights the head now has.
    """
    device = next(model.parameters()).device

    def seen(*names: str) -> tuple[Tensor, Tensor]:
        own = clips.subset(*names)
        return predict(model[:-1], own).to(device), own.labels().to(device)

    classes = len(clips.classes)
    probe = choose_probe(*seen("train"), *seen("val"), classes=classes)
    if tuple(splits) != ("train",):
        refitted = fit_probe(*seen(*splits), classes=classes, strength=probe.fit.strength)
        probe = replace(refitted, tried=probe.tried)
    model.head.load_state_dict(probe.head.state_dict())
    return probe


def as_targets(labels: Tensor, *, classes: int) -> Tensor:
    """Returns labels as rows that `mixup` can mix: multi-hot as they are, numbers as one-hot."""
    return labels if labels.ndim == 2 else F.one_hot(labels, classes).float()


def score(model: nn.Module, clips: ClipSet) -> dict[str, float]:
    """Returns the metrics of a classifier on whole clips."""
    return metrics(predict(model, clips), clips.labels())


def main() -> None:
    """Trains as the command line says."""
    run_program(train, PRESETS, program="reference_models.supervised", about=__doc__)


if __name__ == "__main__":
    main()
