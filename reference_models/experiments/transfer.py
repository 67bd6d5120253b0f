"""Figure 4: how well each layer's features serve other tasks, by the regime that made them."""

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reference_models.evaluate import metrics, over_runs, predict
from reference_models.experiments.claims import ON_EVENTS, ON_WORDS
from reference_models.experiments.comparison import chance, differences, metric_of, spelled_out
from reference_models.experiments.finding import (
    Claim,
    Experiment,
    Finding,
    Number,
    Row,
    numbers_of,
    part,
)
from reference_models.experiments.hearing import UNTRAINED
from reference_models.experiments.study import (
    REGIMES,
    Network,
    Preset,
    Study,
    finetuned,
    pretrained,
    random_states,
    untrained,
    untrained_random_states,
)
from reference_models.probe import choose_probe
from reference_models.probing import BLOCKS, WHOLE, block_means
from reference_models.statistics import Estimate, compare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "figure-4"
DATA = ("fsd50k", "words")
TITLES = {"fsd50k": "Sound events", "words": "Words"}
GATES = {"fsd50k": ON_EVENTS, "words": ON_WORDS}
COLOURS = {"contrastive": "#1f5fa8", "supervised": "#c2571a", UNTRAINED: "#6b7280"}

FULL = (2, 6, 11)  # blocks up to which networks are trained as a whole too
CUT: tuple[dict[str, int], ...] = tuple({"layers": layers} for layers in FULL)
EARLY, MIDDLE, DEEP, TOP = (1, 2, 3, 4), 6, (9, 10, 11), 11


def networks(preset: Preset) -> list[Network]:
    """What figure 4 trains beside its probes: cut networks, and the whole ones of its lines.

    Cut networks that are trained as a whole are of the first random state alone.
    """
    trained = [
        finetuned(data, pretrained(regime, random_state), **changes)
        for data in DATA
        for regime in REGIMES
        for random_state in random_states(preset)
        for changes in ({"frozen": True}, {}, *(() if random_state else CUT))
    ]
    return trained + [
        finetuned(data, untrained(random_state), frozen=True)
        for data in DATA
        for random_state in untrained_random_states(preset)
    ]


def probe_scores(study: Study, start: Network, data: str) -> dict[int, tuple[Tensor, bool]]:
    """What frozen networks make of the validation clips, by block.

    A probe on a block is what `supervised.train` makes of
    `finetuned(data, start, frozen=True, layers=block)`; here all of them share one pass.

    Args:
        study: The study.
        start: Whose encoder they probe.
        data: On which data set.

    Returns:
        Of blocks 1 to 11 and `WHOLE`, a trained network of tables A.4 and A.6, the outputs,
        (clips, classes), and whether the probe converged.
    """
    clips = study.clips(data)
    training, validation = clips.subset("train"), clips.subset("val")
    encoder = study.encoder(start)
    seen, held_out = (block_means(encoder, split) for split in (training, validation))
    labels = training.labels().to(study.device), validation.labels()
    scores = {}
    for block in BLOCKS:
        one, other = seen[block].to(study.device), held_out[block].to(study.device)
        probe = choose_probe(one, labels[0], other, labels[1], classes=len(clips.classes))
        scores[block] = probe.head(other).detach().cpu(), probe.fit.converged
    whole = finetuned(data, start, frozen=True)
    converged = study.result(whole)["probe"]["converged"]
    return scores | {WHOLE: (predict(study.classifier(whole), validation), converged)}


def measure_probes(study: Study, start: Network, data: str) -> dict[str, dict[str, Any]]:
    """Of every frozen probe on one encoder, by block: its metric, and whether it converged."""
    labels, metric = study.clips(data).subset("val").labels(), metric_of(study, data)
    return {
        str(block): {"value": metrics(held, labels)[metric], "converged": converged}
        for block, (held, converged) in probe_scores(study, start, data).items()
    }


def rows_of(study: Study, data: str) -> list[Row]:
    """The rows of one data set: its frozen probes, then the networks that were trained whole."""
    metric = metric_of(study, data)
    rows: list[Row] = []

    def add(trained: str, start: Network, block: int, value: float, converged: str = "") -> None:
        blocks = "whole" if block == WHOLE else block
        pretraining = UNTRAINED if start.untrained else start.regime
        place = {"data": data, "metric": metric, "trained": trained, "pretraining": pretraining}
        place |= {"blocks": blocks, "random_state": start.random_state}
        rows.append({**place, "value": value, "converged": converged})

    def probe(start: Network) -> None:
        key = f"probes-{data}-{start.name}"
        held = part(study, NAME, key, partial(measure_probes, study, start, data))
        for block in (*BLOCKS, WHOLE):
            found = held[str(block)]
            add("fonly", start, block, found["value"], "yes" if found["converged"] else "no")

    for regime in REGIMES:
        for random_state in random_states(study.preset):
            start = pretrained(regime, random_state)
            probe(start)
            for block in (WHOLE, *(() if random_state else FULL)):
                layers = {} if block == WHOLE else {"layers": block}
                result = study.result(finetuned(data, start, **layers))
                add("full", start, block, result["val"][metric])
    for random_state in untrained_random_states(study.preset):
        probe(untrained(random_state))
    return rows


def probed(rows: Sequence[Row], data: str, regime: str, blocks: Sequence[int | str]) -> list[float]:
    """The mean metric of the frozen probes on some blocks, one number for each network."""
    own = [
        row
        for row in rows
        if (row["data"], row["trained"], row["pretraining"]) == (data, "fonly", regime)
        and row["blocks"] in blocks
    ]
    every = sorted({row["random_state"] for row in own})
    return [
        fmean(row["value"] for row in own if row["random_state"] == random_state)
        for random_state in every
    ]


def _ahead(rows: Sequence[Row], data: str, regimes: Sequence[str], blocks: Sequence[int]) -> Any:
    """How far the first regime is ahead of the second, network by network."""
    ours, theirs = (probed(rows, data, regime, blocks) for regime in regimes)
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def claims_e(rows: Sequence[Row], units: Mapping[str, str]) -> list[Claim]:
    """Whether contrastive weights are ahead in blocks 1 to 4, one look for each data set."""
    return [
        Claim(
            "e",
            [
                compare(
                    "blocks 1 to 4, contrastive minus supervised",
                    units[data],
                    _ahead(rows, data, REGIMES, EARLY),
                )
            ],
            of=TITLES[data].lower(),
            gates=GATES[data],
        )
        for data in DATA
    ]


def claim_h(rows: Sequence[Row], units: Mapping[str, str]) -> Claim:
    """Whether supervised weights are ahead in blocks 9 to 11 on sound events, and more than early.

    Weights that are ahead from the start do not overtake.
    """
    deep, early = (_ahead(rows, "fsd50k", REGIMES[::-1], blocks) for blocks in (DEEP, EARLY))
    unit = units["fsd50k"]
    return Claim(
        "h",
        [
            compare("supervised minus contrastive, blocks 9 to 11", unit, deep),
            compare("by how much more than in blocks 1 to 4", unit, deep, early),
        ],
    )


def claim_i(rows: Sequence[Row], units: Mapping[str, str]) -> Claim:
    """Whether block 6 beats block 11 and the whole encoder on words, in both regimes."""
    return Claim(
        "i",
        [
            compare(
                f"{regime}, block 6 over {name}",
                units["words"],
                *(probed(rows, "words", regime, [block]) for block in (MIDDLE, top)),
            )
            for regime in REGIMES
            for name, top in (("block 11", TOP), ("the whole encoder", "whole"))
        ],
    )


def draw(rows: Sequence[Row], levels: Mapping[str, float]) -> "Figure":
    """Figure 4: a panel for each data set, as in the paper, with untrained encoders and chance.

    Args:
        rows: Of `rows_of`, for all data sets.
        levels: By data set what a network that hears nothing reaches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(DATA))
    for axes, data in zip(panels, DATA, strict=True):
        own = [row for row in rows if row["data"] == data]
        for features in COLOURS:
            _draw_curves(axes, [row for row in own if row["pretraining"] == features], features)
        axes.axhline(levels[data], color="black", linestyle="-.", linewidth=1, label="chance")
        axes.set_title(TITLES[data])
        axes.set_xlabel("blocks kept")
        axes.set_ylabel(f"{own[0]['metric']} on the validation clips")
        axes.set_xticks(list(BLOCKS))
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _draw_curves(axes: "Axes", rows: Sequence[Row], features: str) -> None:
    """Lines over the blocks with their intervals; the whole network is a dashed line."""
    style = {"color": COLOURS[features], "linewidth": 1.2}
    for trained, marker in (("fonly", "o"), ("full", "^")):
        own = [row for row in rows if row["trained"] == trained]
        if not own:  # untrained encoders are probed alone
            continue
        blocks = sorted({row["blocks"] for row in own if row["blocks"] != "whole"})
        points = [over_runs([r["value"] for r in own if r["blocks"] == block]) for block in blocks]
        whole = fmean(row["value"] for row in own if row["blocks"] == "whole")
        means = [point.mean for point in points]
        name = spelled_out(f"{features}, {trained}")
        axes.plot(blocks, means, marker=marker, label=name, **style)
        line = "--" if trained == "full" else ":"
        axes.axhline(whole, linestyle=line, label=f"{name}, whole encoder", **style)
        if all(point.runs > 1 for point in points):
            low, high = ([p.mean + sign * p.half_width for p in points] for sign in (-1, 1))
            axes.fill_between(blocks, low, high, color=COLOURS[features], alpha=0.15, linewidth=0)


def run(study: Study) -> Finding:
    """Probes all blocks of all networks on both data sets, and gathers what was trained."""
    rows = [row for data in DATA for row in rows_of(study, data)]
    units = {data: metric_of(study, data) for data in DATA}
    numbers = [
        number
        for data, unit in units.items()
        for number in numbers_of(
            [row for row in rows if row["data"] == data],
            ("data", "trained", "pretraining", "blocks"),
            {"value": unit},
        )
    ]
    levels = {data: chance(study, data, "val")[unit] for data, unit in units.items()}
    numbers += [
        Number(f"{data}, chance", units[data], Estimate(level, None, None, 0))
        for data, level in levels.items()
    ]
    fits = [row["converged"] for row in rows if row["converged"]]
    clips = " and ".join(f"{len(study.clips(data).subset('val'))}" for data in DATA)
    return Finding(
        rows,
        [*claims_e(rows, units), claim_h(rows, units), claim_i(rows, units)],
        numbers=numbers,
        figures={NAME: draw(rows, levels)},
        n=f"{study.preset.runs} networks of each regime, of the cut ones that are trained whole "
        f"one; {len(untrained_random_states(study.preset))} untrained encoders; {clips} validation "
        f"clips; {fits.count('yes')} of {len(fits)} probes converged; bands are 95 % t intervals "
        "over networks",
        differs=f"{differences(study, 'audioset', *DATA)} Whole networks are trained up to "
        "blocks 2, 6 and 11 only; the paper prints curves, not numbers. As in the paper these are "
        "validation clips; here they chose the probes' penalty too.",
    )


TRANSFER = (Experiment(NAME, "Figure 4: transfer, layer by layer", networks, run),)
