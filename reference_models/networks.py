"""The networks of a study, one after the other, and all that is measured on each.

    python -m reference_models.networks --arabic-commands DIR --speech-commands DIR --fsd50k DIR
        --out results --measured docs/results/networks

trains both regimes on Arabic Commands and writes a JSON file for each network as soon as it is
done: its learning curve, its metrics, and a fitted probe on every block for every data set, beside
the same of untrained encoders. `networks.md` there is the table of them all. Killed, it goes on
where it was when started again; `--plan` prints what every network will take, and stops.

The folder is one of `reference_models.run_all`, which finds these networks trained.
"""

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reference_models.channels_last import quick
from reference_models.checkpoint import (
    export_weights,
    load_checkpoint,
    load_classifier,
    load_encoder,
    read_json,
    save_checkpoint,
    write_json,
)
from reference_models.cnn12 import CNN12, classifier
from reference_models.data import SAMPLE_RATE
from reference_models.distributed import use_threads
from reference_models.evaluate import over_runs
from reference_models.experiments.comparison import chance, metric_of
from reference_models.experiments.settled import RULE, settled_curve
from reference_models.experiments.study import (
    REGIMES,
    Network,
    Study,
    check_settings,
    finetuned,
    preset_of,
    pretrained,
    random_states,
    untrained_random_states,
)
from reference_models.probing import BLOCKS, WHOLE, best_block, probe_blocks, untrained
from reference_models.run_all import alone
from reference_models.supervised import score

RECORDINGS = preset_of("thorough", "recordings")
"""Five networks of each regime, pretrained on recordings of a second each."""

PROBED = ("audioset", "words", "fsd50k")  # what both regimes are pretrained on, near, far
FINETUNED = ("words", "fsd50k")
SHIPPED_BLOCKS = (11, WHOLE)


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says; a user's error ends in one line and exit code 2."""
    parser = _parser()
    given = parser.parse_args(argv)
    named = {
        "arabic": given.arabic_commands,
        "words": given.speech_commands,
        "fsd50k": given.fsd50k,
    }
    sources = {name: path for name, path in named.items() if path}
    preset = replace(RECORDINGS, runs=given.runs)
    study = Study(given.out, preset, sources, given.device)
    use_threads(given.threads)
    try:
        if given.plan:
            print(plan(study))
            return
        study.folder.mkdir(parents=True, exist_ok=True)
        with alone(study.folder):
            for path in measure_all(study, given.measured):
                print(path, flush=True)
            if given.ship:
                command = shlex.join([*parser.prog.split(), *(argv or sys.argv[1:])])
                for path in ship(study, given.measured, given.ship, command):
                    print(path, flush=True)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def networks(study: Study) -> list[Network]:
    """Of each random state one network of each regime, both fine-tuned, and two from scratch."""
    found = []
    for random_state in random_states(study.preset):
        starts = [pretrained(regime, random_state) for regime in reversed(REGIMES)]
        found += starts
        found += [
            finetuned(data, start, random_state=random_state)
            for data in FINETUNED
            for start in (*starts, None)
        ]
    return found


def measure_all(study: Study, folder: Path) -> Iterator[Path]:
    """Trains and measures what is not measured yet, and yields each file as it is written.

    Args:
        study: Whose networks.
        folder: Where the JSON files and `networks.md` go.

    Raises:
        ValueError: A network is there that was trained with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def unless_there(name: str, measure: Callable[[], dict[str, Any]]) -> Iterator[Path]:
        path = folder / f"{name}.json"
        if not path.exists():
            write_json(path, measure())
            (folder / "networks.md").write_text(table(read(folder)))
            yield path

    for draw in untrained_random_states(study.preset):
        yield from unless_there(
            f"untrained-s{draw}", lambda draw=draw: measure_untrained(study, draw)
        )
    for network in networks(study):
        if (path := folder / f"{network.name}.json").exists():
            check_settings(read_json(path)["settings"], study.settings(network), path)
        yield from unless_there(network.name, lambda network=network: measure(study, network))


def measure(study: Study, network: Network) -> dict[str, Any]:
    """Trains a network unless it is, and returns what there is to say of it, for JSON.

    Returns:
        What the run says of itself (settings, data, versions, seconds, history, metrics), "settled"
        (whether it was trained long enough, by `RULE`) and, for a pretrained encoder, "probes":
        what `probe_blocks` gives, by data set; of a contrastive one also "probed", by which it
        settled.
    """
    found, curve = study.train(network), settled_curve(study, network)
    if network.start is not None:  # by its name: where its file lies says nothing to others
        found["settings"] |= {"encoder": network.start.name}
    found |= {
        "name": network.name,
        "regime": network.regime,
        "rule": RULE,
        "settled": curve.settled,
        "sha256": hashlib.sha256(study.checkpoint(network).read_bytes()).hexdigest(),
    }
    if network.regime == "contrastive":
        found["probed"] = curve._asdict()
    if network.start is None and network.data == "audioset":
        found["probes"] = _probes(study, study.encoder(network), (*BLOCKS, WHOLE))
    return found


def measure_untrained(study: Study, draw: int) -> dict[str, Any]:
    """Returns the probes of an encoder with its first weights, and what chance is."""
    encoder = untrained(study.preset.width, draw).to(study.device)
    return {
        "name": f"untrained-s{draw}",
        "regime": "untrained",
        "settings": {"width": study.preset.width, "random_state": draw},
        "chance": {data: chance(study, data)[metric_of(study, data)] for data in PROBED},
        "probes": _probes(study, encoder, (*BLOCKS, WHOLE)),
    }


def _probes(study: Study, encoder: CNN12, blocks: Sequence[int]) -> dict[str, dict[int, Any]]:
    return {data: probe_blocks(encoder, study.clips(data), blocks=blocks) for data in PROBED}


def ship(study: Study, measured: Path, folder: Path, command: str) -> Iterator[Path]:
    """Writes the first network of each regime as 16-bit weights, with a card, and yields each file.

    Args:
        study: Whose networks; the two are trained.
        measured: Where `measure_all` wrote what untrained encoders do.
        folder: Where `<width>-arabic-<regime>.safetensors` and its card, a JSON file, go.
        command: What to say the weights were made by.

    The figures on a card are of the 16-bit weights, on test clips, with the untrained encoders'
    beside them.
    """
    untrained_ones = [one for one in read(measured) if one["regime"] == "untrained"]
    for network in (pretrained(regime) for regime in REGIMES):
        target = (
            folder / f"cnn12-w{round(1 / study.preset.width)}-arabic-{network.regime}.safetensors"
        )
        export_weights(study.checkpoint(network), target, {})
        tensors, about = load_checkpoint(target)
        probes = _probes(study, load_encoder(target).to(study.device), SHIPPED_BLOCKS)
        about |= {
            "command": command,
            "minutes": round(study.result(network)["seconds"] / 60, 1),
            "weights_sha256": _hash(tensors),
            "figures": {
                data: {
                    _named(block): {
                        "metric": probed["fit"]["metric"],
                        "trained": probed["test"][probed["fit"]["metric"]],
                        "untrained": [_value(one, data, block) for one in untrained_ones],
                    }
                    for block, probed in own.items()
                }
                for data, own in probes.items()
            },
        }
        if network.regime == "supervised":
            test = study.clips(network.data).subset("test")
            about["test"] = score(load_classifier(target).to(study.device), test)
        save_checkpoint(target, tensors, about)
        yield target


def _hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


# --- the table -----------------------------------------------------------------------------------


def read(folder: Path) -> list[dict[str, Any]]:
    """What is measured so far, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*-s*.json"))]


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns the measured networks as Markdown: each network, then each regime's mean."""
    lines = [
        "# Networks, and what fitted probes find in them",
        "",
        "Generated by `python -m reference_models.networks`. A probe is a logistic regression on "
        "the standardised features of a frozen block, the block chosen on the validation clips; "
        "all figures are of test clips: accuracy for words, mAP for events.",
        "",
        f"A network is {RULE}.",
        "",
        "| network | minutes | epochs | long enough | its own test metric | probe: "
        + " | probe: ".join(PROBED)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(PROBED),
    ]
    for one in found:
        history = one.get("history", [])
        own = one.get("test", {})
        cells = [
            one["name"],
            f"{one['seconds'] / 60:.0f}" if "seconds" in one else "",
            str(len(history) or ""),
            {True: "yes", False: "no", None: ""}[one.get("settled")],
            next((f"{name} {own[name]:.3f}" for name in ("accuracy", "mAP") if name in own), ""),
            *(_best(one, data) for data in PROBED),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Means over networks, with their 95 % t intervals (whole encoder / block 11):",
        "",
    ]
    levels = next((one["chance"] for one in found if "chance" in one), {})
    lines += [f"- chance, {data}: {level:.3f}" for data, level in levels.items()]
    for regime in ("untrained", *REGIMES):
        own = [one for one in found if one["regime"] == regime and "probes" in one]
        for data in PROBED if own else ():
            points = {
                _named(block): over_runs([_value(one, data, block) for one in own])
                for block in SHIPPED_BLOCKS
            }
            said = ", ".join(
                f"{name} {interval}" if interval.runs > 1 else f"{name} {interval.mean:.3f} (N=1)"
                for name, interval in points.items()
            )
            lines.append(f"- {regime}, {data}: {said}")
    return "\n".join(lines) + "\n"


def _value(one: Mapping[str, Any], data: str, block: int) -> float:
    probed = one["probes"][data][str(block)]
    return probed["test"][probed["fit"]["metric"]]


def _best(one: Mapping[str, Any], data: str) -> str:
    if "probes" not in one:
        return ""
    block = best_block({int(b): probed for b, probed in one["probes"][data].items()})
    return f"{_value(one, data, block):.3f} ({_named(block)})"


def _named(block: int) -> str:
    return "whole" if block == WHOLE else f"block {block}"


# --- the plan ------------------------------------------------------------------------------------


def plan(study: Study) -> str:
    """Returns the minutes that each network will take on this machine, as Markdown.

    A step of training is timed; the study's networks cost in proportion to the audio they pass.
    """
    rate = clip_seconds_per_second(study)
    lines = ["| network | audio, hours | planned minutes |", "|---|---|---|"]
    total = 0.0
    for network in networks(study):
        audio = study.cost(network, study.clips(network.data).subset("train"))
        total += audio / rate
        lines.append(f"| {network.name} | {audio / 3600:.1f} | {audio / rate / 60:.0f} |")
    lines.append(f"| all {len(networks(study))} | | {total / 60:.0f} |")
    return "\n".join(lines)


def clip_seconds_per_second(study: Study) -> float:
    """Seconds of audio that a forward and backward pass goes through in a second."""
    encoder = untrained(study.preset.width, 0).to(study.device)
    model = quick(classifier(encoder, classes=10).to(study.device)).train()
    batch = study.preset.supervised["audioset"].batch_size
    waveforms = torch.randn(batch, 1, SAMPLE_RATE, device=study.device)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        model(waveforms).sum().backward()
        if waveforms.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return len(waveforms) / min(times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("arabic-commands", "speech-commands", "fsd50k"):
        parser.add_argument(
            f"--{name}", type=Path, metavar="DIR", help="without it rendered clips stand in"
        )
    runs = RECORDINGS.runs
    parser.add_argument("--runs", type=int, default=runs, metavar="N", help="of each regime")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument(
        "--measured", type=Path, default=Path("docs/results/networks"), metavar="DIR"
    )
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", default=devices[0], choices=devices)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    parser.add_argument(
        "--ship",
        type=Path,
        metavar="DIR",
        help="also write the first of each regime, to be published",
    )
    parser.add_argument("--plan", action="store_true", help="print the planned minutes and stop")
    return parser


if __name__ == "__main__":
    main()
