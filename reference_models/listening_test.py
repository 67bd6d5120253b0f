"""A blind listening test of the paper's central claim, for people.

    python -m reference_models.listening_test make listener-1 --listener 1 --out results
    python -m reference_models.listening_test score listener-1 listener-2 listener-3

"Deep self-supervised layers learn more acoustically discernible representations": the reports let
networks judge that (`discernible`), but discernible is what people discern. `make` takes a study
that `run_all` has trained (give the same options) and writes a page that opens from disk: 70
sounds, one after the other, each of another clip of ESC-10, and of each the listener says which of
ten kinds it was. Sixty are sonifications of deep layers, ten of each regime (and of untrained
networks) by the deconvnet and through masks; ten are recordings, which say how well the listener
hears. The page does not know which is which: that is in `key.json` beside it. At its end it saves
`answers.json`, which `score` expects in the same folder.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from deconv1d.audio import encode_audio, write_whole
from deconv1d.render import data_uri
from deconv1d.sounding import to_peak_of
from deconv1d.table import Table
from reference_models.checkpoint import write_json
from reference_models.data import SAMPLE_RATE
from reference_models.experiments.control_sounds import audible
from reference_models.experiments.discernible import (
    METHODS,
    ORIGINAL,
    esc10_at_8_khz,
    sounds_of,
)
from reference_models.experiments.hearing import COMPARED, DEEP, UNTRAINED, listen, network_of
from reference_models.experiments.report import render
from reference_models.experiments.soundnet import esc10_paths
from reference_models.experiments.study import REGIMES, Study
from reference_models.run_all import add_study_options, study_of
from reference_models.statistics import Comparison, compare, over_networks

PAGE, KEY, ANSWERS = "index.html", "key.json", "answers.json"
CELLS = (*product(METHODS, COMPARED), (ORIGINAL, ""))
"""Method and regime of the sounds of one kind: each kind is heard once in each."""


@dataclass(frozen=True)
class Sound:
    """One sound of a test.

    Attributes:
        clip: The recording's file, within ESC-10.
        kind: What it is of: the right answer.
        method: Of `METHODS`, or "original".
        regime: Of the network; "" of a recording.
        random_state: Of the network.
        layer: Whose most active map is heard.
    """

    clip: str
    kind: str
    method: str
    regime: str = ""
    random_state: int = 0
    layer: str = ""


def drawn(paths: Sequence[Path], networks: int, listener: int) -> list[Sound]:
    """The sounds of one listener's test, in the order in which they are heard.

    No clip is heard twice: whoever knows it would name it by memory.

    Args:
        paths: Files of ESC-10, at least as many of each kind as there are cells.
        networks: How many networks there are of each regime.
        listener: Another number draws another test.
    """
    draws = np.random.default_rng(listener)
    sounds = []
    for kind in sorted({kind_of(path) for path in paths}):
        of_kind = [path for path in paths if kind_of(path) == kind]
        chosen = draws.choice(len(of_kind), size=len(CELLS), replace=False)
        for number, (method, regime) in zip(chosen, CELLS, strict=True):
            clip = f"{of_kind[number].parent.name}/{of_kind[number].name}"
            sound = Sound(clip, kind, method)
            if regime:
                random_state, layer = int(draws.integers(networks)), str(draws.choice(DEEP))
                sound = Sound(clip, kind, method, regime, random_state, layer)
            sounds.append(sound)
    return [sounds[number] for number in draws.permutation(len(sounds))]


def kind_of(path: Path) -> str:
    """What a file of ESC-10 is of: "Dog bark" in the folder "001 - Dog bark"."""
    return path.parent.name.partition(" - ")[2]


def heard(study: Study, sound: Sound) -> Tensor:
    """A sound as it is played, (1, 1, time): above 50 Hz, with its recording's peak."""
    x = esc10_at_8_khz(study.sources["esc10"] / sound.clip)
    if sound.method == ORIGINAL:
        return x
    sonifier = listen(study, network_of(sound.regime, sound.random_state))
    [sonification] = sounds_of(sonifier, x.to(study.device), [sound.layer], sound.method)
    return to_peak_of(x, audible(sonification.waveform.cpu(), SAMPLE_RATE))[0]


def make(study: Study, folder: str | Path, listener: int) -> Path:
    """Writes the page of one listener, and the key to it.

    Args:
        study: Its networks are trained.
        folder: Where the page goes; made if missing.
        listener: Another number draws another test.

    Returns:
        The page.

    Raises:
        FileNotFoundError: The study has no ESC-10, or a network of it is not trained.
    """
    if "esc10" not in study.sources:
        raise FileNotFoundError(
            "the listening test is of ESC-10's recordings, got none; give --esc10 DIR"
        )
    paths = esc10_paths(study.sources["esc10"])
    sounds = drawn(paths, study.preset.runs, listener)
    key = {"listener": listener, "sounds": [asdict(sound) for sound in sounds]}
    content = {
        "test": _name_of(key),
        "kinds": sorted({sound.kind for sound in sounds}),
        "sounds": [_playable(heard(study, sound)) for sound in sounds],
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / KEY, key)
    write_whole(folder / PAGE, render("listening_test.html", content).encode())
    return folder / PAGE


def _name_of(key: Mapping[str, Any]) -> str:
    """Tells tests apart without saying what is in them."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _playable(sound: Tensor) -> str:
    samples = sound.reshape(1, -1).double().numpy()
    return data_uri(
        "audio/flac", encode_audio(samples, SAMPLE_RATE, file_format="FLAC", subtype="PCM_16")
    )


# --- what listeners said -------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How often sounds of one method and regime were named rightly.

    Attributes:
        method: Of `METHODS`, or "original".
        regime: Of the networks; "" of recordings.
        named: Share of the sounds; of networks the mean over them, with its 95 % interval.
        sounds: How many were heard.
    """

    method: str
    regime: str
    named: str
    sounds: int


def answered(folders: Iterable[str | Path]) -> Iterator[tuple[Sound, bool]]:
    """Each sound that listeners have answered, and whether rightly.

    Args:
        folders: Each with a key and the answers to it.

    Raises:
        FileNotFoundError: A folder lacks one of both.
        ValueError: The answers are to another test.
    """
    for folder in map(Path, folders):
        for name in (KEY, ANSWERS):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"'{folder}' holds no {name}: the page saves {ANSWERS} at its end; move it "
                    f"into the folder of its page"
                )
        key, said = (json.loads((folder / name).read_text("utf-8")) for name in (KEY, ANSWERS))
        if said["test"] != _name_of(key):
            raise ValueError(
                f"'{folder / ANSWERS}' answers test {said['test']}: expected {_name_of(key)}, "
                f"which is this folder's; move it into the folder of its own page"
            )
        for number, answer in said["answers"].items():
            sound = Sound(**key["sounds"][int(number)])
            yield sound, answer == sound.kind


def scored(answers: Iterable[tuple[Sound, bool]]) -> tuple[Table[Score], list[Comparison]]:
    """How often sounds were named rightly.

    Args:
        answers: As from `answered`.

    Returns:
        A table by method and regime; and for each method how much more often those of contrastive
        networks were than those of supervised and of untrained ones.
    """
    answers = list(answers)
    rows, comparisons = [], []
    for method, regime in CELLS:
        shares = _by_network(answers, method, regime)
        heard_of = [right for given in shares.values() for right in given]
        if not heard_of:
            continue
        named = f"{fmean(heard_of):.3f}"  # recordings have no network
        if regime:
            named = str(over_networks([fmean(given) for given in shares.values()]))
        rows.append(Score(method, regime, named, len(heard_of)))
    for method, other in product(METHODS, (REGIMES[1], UNTRAINED)):
        ours, theirs = (_by_network(answers, method, regime) for regime in (REGIMES[0], other))
        # Paired by random state, as everywhere: both networks started from the same weights.
        if both := sorted(ours.keys() & theirs.keys()):
            sides = ([fmean(side[state]) for state in both] for side in (ours, theirs))
            comparisons.append(compare(f"{method}: {REGIMES[0]} minus {other}", "accuracy", *sides))
    return Table(rows), comparisons


def _by_network(
    answers: Iterable[tuple[Sound, bool]], method: str, regime: str
) -> dict[int, list[bool]]:
    shares: dict[int, list[bool]] = {}
    for sound, right in answers:
        if (sound.method, sound.regime) == (method, regime):
            shares.setdefault(sound.random_state, []).append(right)
    return shares


def main(argv: Sequence[str] | None = None) -> None:
    """Does what the command line says; a user's error ends in one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m reference_models.listening_test",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make", help="write the page of one listener")
    making.add_argument("folder", type=Path, help="where the page goes")
    making.add_argument("--listener", type=int, default=1, metavar="N", help="draws another test")
    add_study_options(making)
    scoring = verbs.add_parser("score", help="say how often listeners were right")
    scoring.add_argument("folders", type=Path, nargs="+", help="each with key and answers")
    given = parser.parse_args(argv)
    try:
        if given.verb == "make":
            page = make(study_of(given), given.folder, given.listener)
            print(f"Open {page} in a browser. Do not look into {given.folder / KEY} before.")
            return
        table, comparisons = scored(answered(given.folders))
    except (OSError, ValueError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(table)
    for comparison in comparisons:
        print(comparison)


if __name__ == "__main__":
    main()
