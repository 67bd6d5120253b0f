"""Figure 4: how well each layer's features serve other tasks, by the regime that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from reference_models.evaluate import predict
from reference_models.experiments.comparison import (
    Bootstrap,
    Difference,
    all_hold,
    bootstrap,
    differences,
)
from reference_models.experiments.finding import Claim, Experiment, Finding, Row, part
from reference_models.experiments.study import (
    REGIMES,
    Network,
    Preset,
    Study,
    finetuned,
    pretrained,
)
from reference_models.probe import choose_probe
from reference_models.probing import BLOCKS, WHOLE, block_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "figure-4"
METRICS = {"fsd50k": "mAP", "words": "accuracy"}
TITLES = {"fsd50k": "Sound events", "words": "Words"}
COLOURS = {"contrastive": "#1f5fa8", "supervised": "#c2571a"}

FULL = (2, 6, 11)  # blocks up to which networks are trained as a whole too
EARLY, MIDDLE, DEEP, TOP = (1, 2, 3, 4), 6, (9, 10, 11), 11


def networks(preset: Preset) -> list[Network]:
    """What figure 4 trains beside its probes: cut networks, and the whole ones of its lines."""
    return [
        finetuned(data, pretrained(regime), **changes)
        for data in METRICS
        for regime in REGIMES
        for changes in ({"frozen": True}, {}, *({"layers": layers} for layers in FULL))
    ]


def probe_scores(study: Study, start: Network, data: str) -> dict[int, Tensor]:
    """The outputs of frozen networks for the validation clips, (clips, classes), by block.

    A probe on a block is what `supervised.train` makes of
    `finetuned(data, start, frozen=True, layers=block)`; here all of them share one pass.

    Args:
        study: The study.
        start: Whose encoder they probe.
        data: On which data set.

    Returns:
        Blocks 1 to 11, and `WHOLE`, a trained network of tables A.4 and A.6.
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
        scores[block] = probe.head(other).detach().cpu()
    whole = study.classifier(finetuned(data, start, frozen=True))
    return scores | {WHOLE: predict(whole, validation)}


def measure_probes(study: Study, data: str) -> dict[str, Any]:
    """The frozen probes of both regimes on one data set: a `Bootstrap`, as JSON can say it."""
    scores = {
        _point(regime, block): held
        for regime in REGIMES
        for block, held in probe_scores(study, pretrained(regime), data).items()
    }
    labels = study.clips(data).subset("val").labels()
    return asdict(bootstrap(METRICS[data], scores, labels, device=study.device))


def _point(regime: str, block: int) -> str:
    return f"{regime} {block}"


def rows_of(study: Study, data: str, probes: Bootstrap) -> list[Row]:
    """The rows of one data set: its frozen probes, then the networks that were trained whole."""
    metric = METRICS[data]
    numbers: list[tuple[Any, ...]] = [
        ("fonly", regime, block, probes.values[point], *probes.interval(point))
        for regime in REGIMES
        for block in (*BLOCKS, WHOLE)
        for point in [_point(regime, block)]
    ]
    for regime in REGIMES:
        for block in (*FULL, WHOLE):
            layers = {} if block == WHOLE else {"layers": block}
            result = study.result(finetuned(data, pretrained(regime), **layers))
            numbers.append(("full", regime, block, result["val"][metric], None, None))
    return [
        {
            "data": data,
            "metric": metric,
            "trained": trained,
            "pretraining": regime,
            "blocks": "whole" if block == WHOLE else block,
            "value": value,
            "low": low,
            "high": high,
            "runs": 1,
            "clips": probes.clips,
        }
        for trained, regime, block, value, low, high in numbers
    ]


def gains(probes: Bootstrap) -> dict[str, Difference]:
    """What claims are about, by name."""

    def gain(ours: str, theirs: str, blocks: Sequence[int]) -> Difference:
        return probes.difference(*([_point(side, k) for k in blocks] for side in (ours, theirs)))

    found = {
        "early": gain("contrastive", "supervised", EARLY),
        "deep": gain("supervised", "contrastive", DEEP),
    }
    for regime in REGIMES:
        for name, block in (("block 11", TOP), ("the whole encoder", WHOLE)):
            found[f"{regime}, over {name}"] = probes.difference(
                [_point(regime, MIDDLE)], [_point(regime, block)]
            )
    return found


Differences = Mapping[str, Mapping[str, Difference]]


def claim_e(found: Differences) -> Claim:
    """Whether contrastive weights are ahead in blocks 1 to 4 on both data sets."""
    early = {TITLES[data]: found[data]["early"] for data in METRICS}
    said = ", ".join(f"{title.lower()} {difference}" for title, difference in early.items())
    return Claim(
        "e",
        all_hold([difference.above for difference in early.values()]),
        f"Frozen probes on blocks 1 to 4, contrastive minus supervised: {said}; one run each.",
    )


def claim_h(found: Differences) -> Claim:
    """Whether supervised weights are ahead in blocks 9 to 11 on sound events, but not before."""
    early, deep = found["fsd50k"]["early"], found["fsd50k"]["deep"]
    ahead_from_the_start = early.above is False
    return Claim(
        "h",
        False if ahead_from_the_start else deep.above,
        f"Frozen probes on sound events: supervised minus contrastive {deep} in blocks 9 to 11; "
        f"contrastive minus supervised {early} in blocks 1 to 4; one run each.",
    )


def claim_i(found: Differences) -> Claim:
    """Whether block 6 beats block 11 and the whole encoder on words, in both regimes."""
    gains = {name: gain for name, gain in found["words"].items() if "over" in name}
    said = "; ".join(f"{name}: {gain}" for name, gain in gains.items())
    return Claim(
        "i",
        all_hold([gain.above for gain in gains.values()]),
        f"Frozen probes on words, accuracy on block 6 minus that further up, one run each. {said}.",
    )


def draw(rows: Sequence[Row]) -> "Figure":
    """Figure 4: a panel for each data set, as in the paper.

    Args:
        rows: Of `rows_of`, for all data sets.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(METRICS))
    for axes, data in zip(panels, METRICS, strict=True):
        own = [row for row in rows if row["data"] == data]
        for regime in REGIMES:
            _draw_regime(axes, [row for row in own if row["pretraining"] == regime], regime)
        axes.set_title(TITLES[data])
        axes.set_xlabel("blocks kept")
        axes.set_ylabel(f"{METRICS[data]} on the validation clips")
        axes.set_xticks(list(BLOCKS))
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def _draw_regime(axes: "Axes", rows: Sequence[Row], regime: str) -> None:
    """Lines over the blocks with their intervals; the whole network is a dashed line."""
    for trained, marker in (("fonly", "o"), ("full", "^")):
        own = [row for row in rows if row["trained"] == trained]
        cut = [row for row in own if row["blocks"] != "whole"]
        (whole,) = (row["value"] for row in own if row["blocks"] == "whole")
        style = {"color": COLOURS[regime], "linewidth": 1.2}
        blocks, values = ([row[name] for row in cut] for name in ("blocks", "value"))
        axes.plot(blocks, values, marker=marker, label=f"{regime}, {trained}", **style)
        line = "--" if trained == "full" else ":"
        axes.axhline(whole, linestyle=line, label=f"{regime}, {trained}, whole encoder", **style)
        if trained == "fonly":
            low, high = ([row[name] for row in cut] for name in ("low", "high"))
            axes.fill_between(blocks, low, high, color=COLOURS[regime], alpha=0.15, linewidth=0)


def run(study: Study) -> Finding:
    """Probes all blocks of both networks on both data sets, and gathers what was trained."""
    rows: list[Row] = []
    found = {}
    for data in METRICS:
        held = part(study, NAME, f"probes-{data}", lambda data=data: measure_probes(study, data))
        probes = Bootstrap(**held)
        rows += rows_of(study, data, probes)
        found[data] = gains(probes)
    clips = " and ".join(f"{len(study.clips(data).subset('val'))}" for data in METRICS)
    return Finding(
        rows,
        [claim_e(found), claim_h(found), claim_i(found)],
        {NAME: draw(rows)},
        n=f"1 run a point, {clips} validation clips; bands are 95 % bootstrap intervals over clips",
        differs=(
            f"{differences(study, 'audioset', *METRICS)} One run a point, where the paper has "
            "several; whole networks are trained up to blocks 2, 6 and 11 only; the paper prints "
            "curves, not numbers."
        ),
    )


TRANSFER = (Experiment(NAME, "Figure 4: transfer, layer by layer", networks, run),)
