"""Which explanations point to what drives a channel: the networks that ship, and SoundNet-8.

python -m benchmarks.pointing [--data DIR] [--count N] [NETWORK ...]

Some minutes a network; writes its section of POINTING.md beside this file, and a short table in
docs/trust.md. What is measured in each layer is kept in `pointing/` and not measured again, until
its settings or the weights change. Without `--data` the pages are written from what is kept.
`--data` holds `speech_commands/` and `esc10/`, laid out as published. SoundNet-8 needs its weights
(see reference_models/soundnet.py).
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.pointing_cells import Cell, cells_of
from benchmarks.pointing_networks import NETWORKS, Network
from benchmarks.reporting import HERE, table
from deconv1d.errors import InputError
from deconv1d.evaluation.disturbed import AS_IT_IS, DISTURBANCES
from deconv1d.evaluation.identity import Identities, Identity
from deconv1d.evaluation.intervals import Mean
from deconv1d.evaluation.pointing import ORACLE, Game
from deconv1d.evaluation.recordings import PER_CLASS
from deconv1d.evaluation.trust import CONTROLS, RANDOM_CELLS, Trials, Trust

SHORT = {
    "CNN12, words": ("conv3", "conv5", "conv9"),
    "CNN12, contrastive": ("conv5", "conv9", "conv11"),
}
"""What docs/trust.md shows: some layers of some networks."""
TRUST = HERE.parent / "docs" / "trust.md"
LEAD, ERRORS = 0.15, 3
"""How far a mask is to lead the largest control, and how many standard errors."""
HIGH = 0.8
"""Where the largest control points better than this, the aligned form of the game decides."""
KEPT = 0.8
"""What a disturbed mask is to keep of its in minus out."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one network.

    Attributes:
        network: The network.
        cells: One for each layer that was measured.
    """

    network: Network
    cells: Sequence[Cell]

    @property
    def layers(self) -> list[str]:
        """Those that were measured."""
        return [cell.layer for cell in self.cells]

    @cached_property
    def trials(self) -> Trials:
        """Pair by pair and clip by clip, of all layers."""
        apart, aligned, told = (
            {cell.layer: getattr(cell, name) for cell in self.cells}
            for name in ("apart", "aligned", "told")
        )
        return Trials(Game(apart), Game(aligned), Identities(told), [])

    @cached_property
    def disturbed(self) -> list[Identity]:
        """Self-identification by disturbed masks; none of a network that learnt nothing."""
        found = {cell.layer: cell.disturbed for cell in self.cells if cell.disturbed}
        return list(Identities(found).table)

    @cached_property
    def table(self) -> list[Trust]:
        """The rows of trust."""
        return list(self.trials.table)

    def row(self, layer: str, explanation: str) -> Trust:
        """The row of one explanation in one layer."""
        return next(r for r in self.table if (r.layer, r.explanation) == (layer, explanation))

    def largest_control(self, layer: str, form: str) -> Trust:
        """The control that points best, in the form "pointing" or "aligned"."""
        return max((self.row(layer, c) for c in CONTROLS), key=lambda row: getattr(row, form).value)


def rows(found: Sequence[Trust]) -> Iterator[list[str]]:
    """The lines of a table."""
    for row in found:
        told = row.identified, row.in_minus_out
        yield [
            row.layer,
            row.explanation,
            str(row.pairs),
            *map(with_error, (row.pointing, row.aligned, row.within_frames)),
            *("-" if mean is None else with_error(mean) for mean in told),
        ]


def with_error(mean: Mean) -> str:
    """A mean and its standard error; "-" where nothing was measured."""
    if math.isnan(mean.value):
        return "-"
    return f"{mean.value:.2f} ± {mean.error:.2f}"


LEADS = ("layer", "form", "largest control", "it points", "lead", "errors", "bar", "holds")
HEAD = (
    "layer",
    "explanation",
    "pairs",
    "pointing",
    "aligned",
    "within frames",
    "identified",
    "in minus out",
)
ABOUT = """\
Two recordings of different classes, of equal RMS, are mixed. *Pointing* is the share of a sound's \
energy under the ideal ratio mask of the recording that drives its channel, the mean of both \
directions: 0.5 for whatever does not depend on the channel. *Aligned* is the same with both \
recordings loud at once, so that time alone tells nothing; *within frames* is the part of it that \
a gate in time cannot have. *Identified* is the share of the nine most active channels' sounds on \
which, relative to the mixture, their own channel is the most active: 0.11 by chance. *In minus \
out* is the channel's activation on its sound minus that on what the sound leaves, both at the \
mixture's RMS, relative to the mixture. Means and standard errors (bootstrap over pairs, times \
1.4). Docs: [trust](../docs/trust.md).
"""


def section(found: Measured, command: str) -> str:
    """A network's part of the page."""
    network, (cell, *_) = found.network, found.cells
    about = (
        f"Written by `{command}`, from what is kept in `pointing/` (measured "
        f"{' and '.join(sorted({cell.made for cell in found.cells}))}). Weights "
        f"{cell.settings['weights']}; mixtures of {network.seconds:g} s from `{network.folder}/`, "
        f"the first {PER_CLASS} recordings of each of its classes; {cell.settings['clips']} "
        f"mixtures serve self-identification; masks of {cell.settings['recipe']['steps']} steps; "
        f"random_state 0."
    )
    if any(not row.pairs for row in found.table):
        about += (
            " Where there are no pairs, no mixture has channels that are selective for each of its "
            "two recordings: pointing is not testable there."
        )
    if missing := [layer for layer in network.layers if layer not in found.layers]:
        about += f" Not measured with these weights and masks: {', '.join(missing)}."
    parts = [f"## {network.name}", about, table(HEAD, list(rows(found.table)))]
    if found.disturbed:
        parts += [
            "In minus out of the mask, as it is and disturbed:",
            table(("layer", *DISTURBANCES), list(disturbed_rows(found.disturbed))),
            f"How far the mask leads the control that points best, on the same pairs; the bar is "
            f"at least {LEAD} and {ERRORS} standard errors where recordings lie at random, or, if "
            f"the control is above {HIGH} there, half of what the best control lacks to 1 where "
            f"both are loud at once. No bar is set for the other layers:",
            table(LEADS, list(leads(found))),
            "Whether the targets hold, by means; ± is one standard error:",
            table(("layer", "what", "target", "measured", "holds"), list(targets(found))),
        ]
    return "\n\n".join(parts) + "\n"


def disturbed_rows(found: Sequence[Identity]) -> Iterator[list[str]]:
    """In minus out of each layer under each disturbance."""
    shown = {(row.layer, row.explanation): with_error(row.in_minus_out) for row in found}
    for layer in dict.fromkeys(row.layer for row in found):
        yield [layer, *(shown[layer, name] for name in DISTURBANCES)]


def leads(found: Measured) -> Iterator[list[str]]:
    """The lines that say how far the mask is above the largest control, in both forms."""
    for layer in found.layers:
        high = found.largest_control(layer, "pointing").pointing.value > HIGH
        for form, game in (("pointing", found.trials.apart), ("aligned", found.trials.aligned)):
            control = found.largest_control(layer, form)
            value = getattr(control, form).value
            if math.isnan(value):
                continue
            lead = game.advantage(layer, "mask", control.explanation)
            barred = form == ("aligned" if high else "pointing")
            barred = barred and (high or layer in found.network.leading)
            bar = (1 - value) / 2 if high else max(LEAD, ERRORS * lead.error)
            yield [
                layer,
                form,
                control.explanation.removeprefix("control: "),
                f"{value:.2f}",
                with_error(lead),
                f"{lead.value / lead.error:.1f}" if lead.error else "-",
                f"{bar:.2f}" if barred else "-",
                ("yes" if lead.value >= bar else "no") if barred else "-",
            ]


def targets(found: Measured) -> Iterator[list[str]]:
    """The lines that say which targets hold."""
    for layer in found.layers:
        for what, bar, shown, holds in _targets(found, layer):
            yield [layer, what, bar, shown, "yes" if holds else "no"]


def _targets(found: Measured, layer: str) -> Iterator[tuple[str, str, str, bool]]:
    mask, oracle = found.row(layer, "mask"), found.row(layer, ORACLE)
    bar = found.network.bars.get(layer)
    if bar is not None:
        shown = with_error(mask.pointing)
        yield "pointing", f"at least {bar}", shown, mask.pointing.value >= bar
    share = mask.within_frames.value / oracle.within_frames.value
    if not math.isnan(share):
        yield "within frames, share of the oracle's", "at least 0.7", f"{share:.2f}", share >= 0.7
    told = identity_of(mask.identified)
    yield "identified", "at least 0.65", with_error(told), told.value >= 0.65
    control = max(identity_of(found.row(layer, c).identified).value for c in CONTROLS)
    yield "identified, largest control", "at most 0.2", f"{control:.2f}", control <= 0.2
    more = identity_of(mask.in_minus_out)
    yield "in minus out", "at least +1.0", with_error(more), more.value >= 1
    other = identity_of(found.row(layer, RANDOM_CELLS).in_minus_out)
    yield "in minus out, random masks", "at most 0", with_error(other), other.value <= 0
    kept = [
        row.in_minus_out.value
        for row in found.disturbed
        if row.layer == layer and row.explanation != AS_IT_IS
    ]
    least = min(kept)
    bar_kept = KEPT * more.value
    yield (
        "in minus out, least when disturbed",
        f"at least {bar_kept:.2f}",
        f"{least:.2f}",
        least >= bar_kept,
    )


def identity_of(mean: Mean | None) -> Mean:
    """A mean that only the oracle lacks."""
    assert mean is not None
    return mean


def short(network: Network, found: Sequence[Trust]) -> str:
    """A few layers and explanations: pointing, both recordings loud at once, and identified."""
    by_name: dict[str, list[Trust]] = {}
    for row in found:
        if row.layer in SHORT[network.name]:
            by_name.setdefault(row.explanation, []).append(row)
    head = ["aligned / identified", *SHORT[network.name]]
    lines = [
        [name, *(f"{with_error(r.aligned)} / {identified(r)}" for r in some)]
        for name, some in by_name.items()
    ]
    return f"{network.name}:\n\n{table(head, lines)}\n"


def identified(row: Trust) -> str:
    """One number, if there is one."""
    return "-" if row.identified is None else f"{row.identified.value:.2f}"


def put_between(path: Path, marker: str, text: str) -> None:
    """Writes text into a page, between two comments."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, after = page.partition(begin)[0], page.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def held(sections: Mapping[str, str]) -> Iterator[list[str]]:
    """One line for each kind of target: in how many layers it holds, and where it does not."""
    kinds: dict[str, list[tuple[str, str, bool]]] = {}
    for name, text in sections.items():
        for line in text.splitlines():
            layer, *what, holds = line.strip("| ").split(" | ") if " | " in line else ("", "")
            if holds not in ("yes", "no"):
                continue
            # Leads have a table of their own, whose second column is the form of the game.
            kind = "lead over the largest control" if "lead over" in what[0] else what[0]
            kind = "lead over the largest control" if len(what) == len(LEADS) - 2 else kind
            kinds.setdefault(kind, []).append((name, layer, holds == "yes"))
    for kind, found in kinds.items():
        missed: dict[str, list[str]] = {}
        for name, layer, holds in found:
            if not holds:
                missed.setdefault(name, []).append(layer)
        where = "; ".join(f"{name} {', '.join(layers)}" for name, layers in missed.items())
        yield [kind, f"{sum(holds for *_, holds in found)} of {len(found)}", where or "-"]


def page_with(sections: Mapping[str, str], path: Path = HERE / "POINTING.md") -> None:
    """Writes the page, with new sections of some networks and the old ones of the others."""
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    texts = {}
    for name in NETWORKS:
        kept = old.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0]
        if text := sections.get(name, kept).strip():
            texts[name] = text
    parts = ["# Pointing: whose sound is it?", ABOUT.rstrip()]
    if lines := list(held(texts)):
        parts.append(table(("target of masks", "holds in", "not in"), lines))
    parts += [f"<!-- {name} -->\n{text}\n<!-- /{name} -->" for name, text in texts.items()]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    """Writes POINTING.md, anew after each network."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="all if none is named")
    parser.add_argument("--data", type=Path, metavar="DIR", help="measure what is not kept")
    parser.add_argument("--count", type=int, default=24, metavar="N", help="pairs in each layer")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.networks or NETWORKS:
        network = NETWORKS[name]
        try:
            found = Measured(network, cells_of(network, given.data, given.count))
        except InputError as error:
            # Nothing is kept of this network yet: its old section stays, unless it was asked for.
            if given.data or given.networks:
                raise
            print(error, flush=True)
            continue
        count = found.cells[0].settings["count"]
        command = f'python -m benchmarks.pointing --data DIR --count {count} "{name}"'
        page_with({name: (text := section(found, command))})
        print(text, flush=True)
        if name in SHORT:
            put_between(TRUST, name, short(network, found.table))


if __name__ == "__main__":
    main()
