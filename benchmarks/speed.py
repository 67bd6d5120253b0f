"""Speed and memory beside Captum, plain forward passes and the loops that users would write."""

from __future__ import annotations

import multiprocessing
import tempfile
from functools import partial
from statistics import median

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.growth import calls, growth, long_recording, small_capture
from benchmarks.jobs import many_channels, one_channel, one_channel_jobs, peaks, removal
from benchmarks.reporting import HERE, in_a_process, interleaved, peak_memory, table, write_page
from deconv1d import Sonifier
from deconv1d.mining.plan import BATCH_SAMPLES, Plan
from deconv1d.mining.shards import Miner
from deconv1d.mining.sources import list_clips, read_clip
from deconv1d.record.capture import capture
from deconv1d.record.request import TapRequest
from reference_models.cnn12 import CNN12

INTRODUCTION = """All runs of a table are interleaved in one process; times are medians. Captum is
its `NeuronDeconvolution` (on M5, whose ReLUs are functions that Captum cannot hook, the plain
gradient). A program is what `sonifier.prepare` returns. Ratios mean the same on any machine,
seconds do not."""

LAYER, MAP, CHANNELS = "features.conv8", "features.mp8", 512
SECONDS, RATE = 10, 8000


def network() -> tuple[CNN12, Tensor]:
    """The paper's CNN12, with weights that keep the level, and 10 s of noise."""
    torch.manual_seed(0)
    model = CNN12().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight)
    return model, torch.randn(1, 1, SECONDS * RATE)


def forward_to(model: CNN12, x: Tensor) -> Tensor:
    """The plain forward pass up to the same map."""
    names = [name for name, _ in model.features.named_children()]
    with torch.no_grad():
        return model.features[: names.index("mp8") + 1](x)


def _overhead(results: multiprocessing.Queue[list[dict[str, float]]], threads: list[int]) -> None:
    model, x = network()
    runs = {
        "plain": partial(forward_to, model, x),
        "capture": partial(capture, model, x, target=TapRequest(f"{LAYER}#1")),
    }
    seconds = []
    for number in threads:
        torch.set_num_threads(number)
        seconds.append(interleaved(runs, rounds=21))
    results.put(seconds)


def capture_overhead(processes: int = 3) -> str:
    """Capture of the way to conv8 against the plain forward pass, by number of threads.

    Each in several processes one after the other: where a process has its memory decides a few
    percent.
    """
    threads = sorted({1, torch.get_num_threads()})
    measured = [in_a_process(_overhead, threads) for _ in range(processes)]
    rows = []
    for number, seconds in zip(threads, zip(*measured, strict=True), strict=True):
        ratios = sorted(each["capture"] / each["plain"] for each in seconds)
        times = [median(each[name] for each in seconds) for name in ("capture", "plain")]
        cells = [f"{1e3 * time:.0f}" for time in times]
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append(["capture to conv8", number, *cells, f"{median(ratios):.2f}", spread, "1.15"])
    head = [
        "",
        "threads",
        "ours, ms",
        "plain forward, ms",
        "ratio",
        f"in {processes} processes",
        "bar",
    ]
    return table(head, rows)


def _peak_of_all(results: multiprocessing.Queue[float]) -> None:
    model, x = network()
    forward_to(model, x)
    before = peak_memory()
    Sonifier(model).sonify(x, layer=LAYER, channel="all")
    results.put((peak_memory() - before) / 2**10)


def memory() -> str:
    """Peak memory of all 512 channels, beyond the model and its forward pass."""
    peak = in_a_process(_peak_of_all)
    return table(
        ["", "GiB beyond the model", "bar"],
        [[f'channel="all" ({CHANNELS} maps, 10 s)', f"{peak:.2f}", "2"]],
    )


MINED = {
    "width 1/8, 1 s": (1 / 8, 1, 1024),
    "width 1/8, 10 s": (1 / 8, 10, 96),
    "full width, 10 s": (1, 10, 3),
}
"""Width of CNN12, seconds of a clip, number of clips."""


def mining_times(
    results: multiprocessing.Queue[dict[str, float]],
    job: tuple[float, int, int],
    rounds: int,
    device: str = "cpu",
) -> None:
    """Seconds that a set of clips takes: "bare", mined from a "cache", and from "files"."""
    torch.set_num_threads(1)
    width, seconds, count = job
    torch.manual_seed(0)
    sonifier = Sonifier(CNN12(width=width).eval().to(device), sample_rate=RATE, verify=False)
    layers = [f"features.conv{n}" for n in range(1, 12)] + ["fc1.fc10"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            sound = torch.rand(seconds * RATE).numpy() - 0.5
            soundfile.write(f"{folder}/{number:03d}.wav", sound, RATE, subtype="PCM_16")
        clips = list(list_clips([folder]))
        waveforms = torch.from_numpy(np.stack([read_clip(clip, RATE) for clip in clips]))
        size = min(16, 16 * BATCH_SAMPLES // (seconds * RATE))
        plan = Plan(
            model="",
            sample_rate=RATE,
            layers=tuple(layers),
            top=3,
            score="peak",
            tap="block",
            method="deconvnet",
            seed="activation",
            batch=16,
            threads=1,
            clips=count,
            clips_sha256="",
            shard_clips=count,
        )

        def bare() -> None:
            with torch.inference_mode():
                for batch in waveforms[:, None].split(size):
                    sonifier.model(batch.to(device))
                if device != "cpu":
                    torch.cuda.synchronize()

        # As from a cache of 16-bit samples.
        cache = {clip.clip: (32768 * x).short() for clip, x in zip(clips, waveforms, strict=True)}
        cached = Miner(
            sonifier, plan, read=lambda clip, _: (cache[clip.clip].float() / 32768).numpy()
        )
        files = Miner(sonifier, plan)
        runs = {"bare": bare, "cache": partial(cached.mined, clips)}
        results.put(interleaved({**runs, "files": partial(files.mined, clips)}, rounds=rounds))


def mining() -> str:
    """Mining all layers, decoding included, against the bare forward pass of the same batches."""
    rows = []
    for job, (*_, count) in MINED.items():
        seconds = in_a_process(mining_times, MINED[job], 7)
        bare, cache, files = (1e3 * seconds[name] / count for name in ("bare", "cache", "files"))
        cells = [f"{number:.2f}" for number in (cache, bare, bare / cache, bare / files)]
        rows.append([job, *cells, "0.85"])
    head = [
        "mining CNN12, 12 layers",
        "ours, ms a clip",
        "bare forward",
        "throughput, from a cache",
        "from WAV files",
        "bar",
    ]
    return table(head, rows)


def by_threads() -> str:
    """The tables of single jobs, on one thread and on all."""
    parts, all_threads = [], torch.get_num_threads()
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        parts.append(f"## On {threads} thread{'s' if threads > 1 else ''}")
        parts.append(one_channel(one_channel_jobs("cpu")))
        parts += [job("cpu") for job in (many_channels, peaks, removal)]
    torch.set_num_threads(all_threads)
    return "\n\n".join(parts)


def main() -> None:
    """Writes RESULTS.md."""
    tables = [
        by_threads(),
        "## Recording, mining, memory",
        capture_overhead(),
        small_capture(),
        mining(),
        memory(),
        calls(),
        long_recording(),
        "## Growth",
        growth(),
    ]
    packages = ("torch", "captum", "numpy")
    body = "\n\n".join([INTRODUCTION, *tables])
    write_page(HERE / "RESULTS.md", "Speed", "python -m benchmarks.speed", body, packages)


if __name__ == "__main__":
    main()
