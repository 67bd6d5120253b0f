"""What a control card says: a sonification's controls in numbers, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deconv1d.table import Table

FILTER = "this filter redrawn"
OTHER_CHANNELS = "other channels (Random Logit)"
LIKE = {FILTER: "one with its filter redrawn", OTHER_CHANNELS: "those of other channels"}
OWN, SHARED = 0.4, 0.3
"""From which specificity on a sound is called the channel's own, and up to which it is not. Filters
that are band-passes by construction have 0.46 to 0.68, channels of random layers 0.07 to 0.29."""


@dataclass(frozen=True)
class Control:
    """What one control, drawn once or several times, has in common with the sonification.

    Means over the draws. Similarities are of sonification and control; a margin is the
    sonification's own score minus the control's.

    Attributes:
        control: What was controlled.
        draws: How many sounds.
        spearman: |Rank correlation| of the two waveforms, 0 to 1.
        log_mel: Correlation of their log-mel spectrograms, -1 to 1.
        coherence: Mean of their five highest coherences, 0 to 1.
        similarity: Mean of these three, a negative correlation counting 0.
        similarity_std: Standard deviation of `similarity` over the draws.
        input_coherence_margin: Coherence with the input, the sonification's minus the
            control's.
        response_margin: The channel's activation on hearing each, over that on hearing the input;
            the sonification's minus the control's.
    """

    control: str
    draws: int
    spearman: float
    log_mel: float
    coherence: float
    similarity: float
    similarity_std: float
    input_coherence_margin: float
    response_margin: float


@dataclass(frozen=True)
class Own:
    """What is left of a sonification that is contrasted with other channels' (`contrast=`).

    Attributes:
        similarity: To other channels' sonifications, as `Control.similarity`; 0 to 1.
        answer: The channel's activation on hearing it, over that on hearing the input.
    """

    similarity: float
    answer: float


@dataclass(frozen=True)
class ControlCard:
    """A sonification's controls, and what they come to.

    Attributes:
        layer: The layer's full name.
        channel: The channel.
        controls: One row for each control.
        input: Coherence of the sonification with the input, 0 to 1.
        answer: The channel's activation on hearing the sonification, over that on the input.
        effective_rank: How many different sounds the channels' sonifications are.
        channels: Of how many channels' sonifications.
        own: Of the sonification contrasted with other channels; None if there are none, or they
            explain all of it.
        complexity_rise: eMPRT: entropy of the sample values' histogram of the sonification with all
            weights redrawn, over that of the sonification, minus 1; None if that is silent.
        smooth: sMPRT: similarity of the sonification and of that with all weights redrawn, each
            the mean over noisy inputs; None if either is silent.
        sounds: The sonification and one sound of each control, (time,), by name.
        sample_rate: In hertz.
    """

    layer: str
    channel: int
    controls: Table[Control]
    input: float
    answer: float
    effective_rank: float
    channels: int
    own: Own | None
    complexity_rise: float | None
    smooth: float | None
    sounds: dict[str, Tensor]
    sample_rate: int

    def __getitem__(self, name: str) -> Control:
        """The control of that name."""
        return next(control for control in self.controls if control.control == name)

    @property
    def nearest(self) -> Control | None:
        """Of other channels and this filter redrawn the control that is more alike, if any."""
        telling = [control for control in self.controls if control.control in LIKE]
        return max(telling, key=lambda control: control.similarity, default=None)

    @property
    def specific(self) -> float:
        """How little the sonification is like that control, 0 to 1; 0 if there is none.

        These two must differ where the channel matters. A random seed need not: a band-pass filter
        makes the same band of it. Nor need redrawn layers below: they change the input's way too.
        """
        return 0.0 if self.nearest is None else 1 - self.nearest.similarity

    @property
    def verdict(self) -> str:
        """A plain sentence on how far to trust the sonification."""
        return _verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the sounds, for JSON."""
        facts = {k: v for k, v in vars(self).items() if k not in ("sounds", "controls", "own")}
        return {
            **facts,
            "specific": self.specific,
            "own": None if self.own is None else vars(self.own),
            "controls": [vars(control) for control in self.controls],
            "verdict": self.verdict,
        }

    @property
    def facts(self) -> str:
        """What does not fit into the table, in a sentence."""
        rise = "silent" if self.complexity_rise is None else f"{self.complexity_rise:+.0%}"
        smooth = "silent" if self.smooth is None else f"{self.smooth:.2f}"
        return (
            f"The channel answers the sonification with {self.answer:.2f} of what it answers the "
            f"input with; the two sounds are coherent to {self.input:.2f}. {self.channels} "
            f"channels' sonifications are {self.effective_rank:.1f} different sounds. "
            f"With all weights redrawn: change in complexity (eMPRT) {rise}, similarity of the "
            f"means over noisy inputs (sMPRT) {smooth}. {self._contrasted}"
        ).rstrip()

    @property
    def _contrasted(self) -> str:
        if self.own is None:
            return "Contrasted with other channels nothing is left." if self.channels > 1 else ""
        return (
            f"Contrasted with other channels it is {self.own.similarity:.2f} like theirs, and "
            f"answered with {self.own.answer:.2f}."
        )

    def __str__(self) -> str:
        title = f"Controls of layer {self.layer!r}, channel {self.channel}"
        return f"{title}\n\n{self.controls}\n\n{self.facts}\n{self.verdict}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deconv1d.report import render_card

        return render_card(self)


def _verdict(card: ControlCard) -> str:
    nearest = card.nearest
    if nearest is None:
        return (
            "Whether this sound is the channel's own cannot be told: no other channel of its layer "
            "is active, and it has no filter that could be redrawn."
        )
    like = f"{nearest.similarity:.2f} like {LIKE[nearest.control]}"
    if card.specific >= OWN:
        return f"Only {like}: this sound is specific to the channel."
    if card.specific <= SHARED:
        return f"{like}: this is mostly the input passing through the switches."
    return f"{like}: part of this sound is the channel's own, part the input passing through."
