"""Two gloo processes do what one process does, and no clip is seen twice."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

pytest.importorskip("pyarrow")

from reference_models import simclr, supervised
from reference_models.cnn12 import CNN12, classifier
from reference_models.data import Clip, ClipIndex, build_cache, open_cache
from reference_models.distributed import gather_shards, replicate
from reference_models.evaluate import predict
from reference_models.nt_xent import nt_xent

PROCESSES = 2
CLIPS = 6  # a process, in the loss


def read_noise(clip: Clip) -> np.ndarray:
    return np.random.default_rng(int(clip.id)).standard_normal(2400 + 600 * (int(clip.id) % 3))


def test_two_processes(tmp_path):
    splits = ["train"] * 9 + ["val"] * 5 + ["test"] * 5
    clips = [Clip(str(i), "", 0, 0, 0, (i % 2,), s, "unread") for i, s in enumerate(splits)]
    index = ClipIndex("noise", ("even", "odd"), False, tuple(clips))
    build_cache(index, tmp_path / "data", read=read_noise)
    mp.spawn(check_everything, args=(tmp_path,), nprocs=PROCESSES)


def check_everything(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    clips = open_cache(folder / "data").subset("train")
    torch.manual_seed(0)
    model = classifier(CNN12(width=1 / 64), classes=2)
    outputs = predict(model, clips)
    whole, parts = gradient_in_one(), gradients_of_parts()
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=PROCESSES)
    check_loss(rank, whole, parts)
    check_evaluation(rank, model, clips, outputs)
    check_training(rank, folder)
    dist.barrier()  # before one of them closes the connection
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort a process that ends in Python's own way


def views_and_model() -> tuple[Tensor, nn.Module]:
    """Views of all clips, (2, clips, features), that differ in size and spread between halves."""
    draws = torch.Generator().manual_seed(0)
    shape = (2, PROCESSES * CLIPS, 5)
    views = torch.randn(shape, generator=draws, dtype=torch.float64)
    views[:, CLIPS:] = 3 * views[:, CLIPS:] + 1
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    return views, model.double()


def gradient_of(model: nn.Module, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def gradient_in_one() -> Tensor:
    views, model = views_and_model()
    return gradient_of(model, nt_xent(*model(views)))


def gradients_of_parts() -> Tensor:
    """The mean of what each half gives for itself."""
    views, model = views_and_model()
    halves = views.chunk(PROCESSES, dim=1)
    return sum(gradient_of(model, nt_xent(*model(half))) for half in halves) / PROCESSES


def check_loss(rank: int, whole: Tensor, parts: Tensor) -> None:
    assert (whole - parts).abs().max() > 1e-3
    for negatives, expected in (("global", whole), ("local", parts)):
        views, model = views_and_model()
        replica = replicate(model)
        one, two = replica(views.chunk(PROCESSES, dim=1)[rank])
        got = gradient_of(model, nt_xent(one, two, negatives=negatives))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def check_evaluation(rank: int, model: nn.Module, clips, outputs: Tensor) -> None:
    assert len(clips) % PROCESSES  # so that one shard is shorter
    torch.testing.assert_close(predict(model, clips), outputs, rtol=1e-4, atol=1e-6)
    rows = torch.arange(7)[:, None].expand(7, 3)
    assert torch.equal(gather_shards(rows[rank::PROCESSES], 7), rows)


def check_training(rank: int, folder: Path) -> None:
    small = {"width": 1 / 64, "seconds": 0.3, "batch_size": 4, "epochs": 1, "warmup_epochs": 0.0}
    clips = open_cache(folder / "data")
    for program in (supervised, simclr):
        out = folder / program.__name__
        models = keep_models(program)
        result = program.train(clips, program.Settings(**small), out)
        weights = nn.utils.parameters_to_vector(models[0].parameters()).detach()
        both = gather_shards(weights[None], PROCESSES)
        assert torch.equal(both[0], both[1])
        assert len(result["history"]) == 1
        dist.barrier()
        assert (out / "result.json").exists()
    head = supervised.Settings(**small, frozen=True, encoder=str(out / "epoch-001.safetensors"))
    assert supervised.train(clips, head, folder / "head")["test"]["clips"] == 5


def keep_models(program) -> list[nn.Module]:
    """The models that the program's `fit` will be called with."""
    models, fit = [], program.fit

    def keep(model: nn.Module, *rest) -> None:
        models.append(model)
        fit(model, *rest)

    program.fit = keep
    return models
