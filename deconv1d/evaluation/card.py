"""What a control card says: whether a sound is its channel's own, by facts, and the verdict."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deconv1d.table import Table

if TYPE_CHECKING:
    from deconv1d.checks.verification import Verified

FILTER = "this filter permuted"
EVERYTHING = "all weights permuted (MPRT)"
GIVEN_TWIN = "the twin that was given"
RANDOM_SEED = "random map, same switches"
OTHER_CHANNELS = "other channels (Random Logit)"
# A random map and other channels are no twins: their sounds are made by the very network that
# hears them, so that some response to them is to be expected.
TWINS = (FILTER, EVERYTHING, GIVEN_TWIN)
"""Networks in which the channel is another one: a sound of theirs must not pass for this one's."""
RESPONDS = 0.5
"""From which response on a channel is said to respond to a sound."""
AS_MUCH = 0.8
"""Of the response to the sonification, from which on that to a control counts as much."""


@dataclass(frozen=True)
class Control:
    """One control, drawn once or several times; means over the draws.

    Attributes:
        control: What was controlled.
        draws: How many sounds.
        response: The channel's activation on hearing it, over that on hearing the input, both
            at one RMS.
        told: Share of the sounds that are told from the channel's rivals', as `ControlCard.told`;
            None: there is no rival.
        similarity: Mean of the next three, a negative correlation counting 0.
        similarity_std: Standard deviation of `similarity` over the draws.
        spearman: |Rank correlation| of sonification and control, 0 to 1.
        log_mel: Correlation of their log-mel spectrograms, -1 to 1.
        coherence: Mean of their five highest coherences, above what unrelated noise of their
            length has, 0 to 1.
    """

    control: str
    draws: int
    response: float
    told: float | None = field(metadata={"none": "-"})
    similarity: float
    similarity_std: float
    spearman: float
    log_mel: float
    coherence: float


@dataclass(frozen=True)
class Full:
    """What only a full card has: it costs some 150 sonifications.

    Attributes:
        complexity_rise: eMPRT: entropy of the sample values' histogram of the sonification with all
            weights permuted, over that of the sonification, minus 1; None if that is silent.
        smooth: sMPRT: similarity of the sonification and of that with all weights permuted, each
            the mean over 50 noisy inputs; None if either is silent.
    """

    complexity_rise: float | None
    smooth: float | None


@dataclass(frozen=True)
class ControlCard:
    """A sonification's controls, and what they come to.

    Attributes:
        layer: The layer's full name.
        channel: The channel.
        controls: One row for each control.
        response: The channel's activation on hearing the sonification, over that on the input,
            both at one RMS.
        place: The channel's place among all of the layer on the sonification, 1 the most active.
        place_on_input: The same on the input.
        channels: How many the layer has.
        told: Strict self-identification of this channel: whether, of this channel and its 8 most
            active rivals, it is the most active on its sonification, each relative to the input;
            None: no other channel is active.
        input: Coherence of the sonification with the input, above that of unrelated noise, 0 to 1.
        convergence: Cosine similarity convergence: of sonifications of two random sets of maps,
            0 to 1; 1: whatever is carried back from this layer, one sound comes out.
        ablation: Norm of the change of the model's output if the channel's filter is set to 0, over
            that of the output; None: the channel has no filter, or the model returns no tensor.
        ablation_others: The mean of the same over random other channels.
        full: More, if it was asked for.
        sounds: The input, the sonification and one sound of each control, (time,), by name.
        sample_rate: In hertz.
        verified: How far the capture is from the model itself; None: it was not verified.
    """

    layer: str
    channel: int
    controls: Table[Control]
    response: float
    place: int
    place_on_input: int
    channels: int
    told: bool | None
    input: float
    convergence: float
    ablation: float | None
    ablation_others: float | None
    full: Full | None
    sounds: dict[str, Tensor]
    sample_rate: int
    verified: Verified | None = None

    def __getitem__(self, name: str) -> Control:
        """The control of that name."""
        return next(control for control in self.controls if control.control == name)

    @property
    def responds(self) -> bool:
        """Whether the channel responds to its sound: by half at least, and in no later place."""
        # The response alone is not enough: a sound that excites all channels excites this one too.
        # Then more channels than on the input may respond more than it does, which its place shows.
        return _responds(self.response, self.place, self.place_on_input)

    @property
    def passing(self) -> list[str]:
        """The twins whose sounds pass for this channel's: it responds to them as much."""
        return [control.control for control in self._as_good if control.control in TWINS]

    @property
    def _as_good(self) -> list[Control]:
        """The controls of which half of the sounds are told, with as much of a response."""
        return [c for c in self.controls if as_good(c.response, c.told, self.response)]

    @property
    def specific(self) -> bool:
        """Whether the sound is the channel's own by all of these facts."""
        # `is True`: None says that there is no rival, which is no evidence for the sound.
        return self.responds and self.told is True and not self.passing

    @property
    def verdict(self) -> str:
        """A plain sentence on how far to trust the sonification."""
        return verdict_of(
            response=self.response,
            place=self.place,
            place_on_input=self.place_on_input,
            channels=self.channels,
            told=self.told,
            as_good=[control.control for control in self._as_good],
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the sounds, for JSON."""
        # Sounds belong in sound files. The others hold records, which become dicts below.
        apart = ("sounds", "controls", "full", "verified")
        facts = {k: v for k, v in vars(self).items() if k not in apart}
        return {
            **facts,
            "verified": None if self.verified is None else vars(self.verified),
            "specific": self.specific,
            "full": None if self.full is None else vars(self.full),
            "controls": [vars(control) for control in self.controls],
            "verdict": self.verdict,
        }

    @property
    def title(self) -> str:
        """What was controlled."""
        return f"Controls of layer {self.layer!r}, channel {self.channel}"

    @property
    def facts(self) -> str:
        """What does not fit into the table, in a few sentences."""
        told = {True: "is told", False: "is not told", None: "cannot be told"}[self.told]
        sentences = [
            f"The channel responds to the sonification with {self.response:.2f} of its response to "
            f"the input; its place among {self.channels} is {self.place}, and {self.place_on_input}"
            f" on the input.",
            f"The sound {told} from those of the channel's rivals (strict self-identification).",
            f"Coherence with the input is {self.input:.2f} above that of unrelated noise; cosine "
            f"similarity convergence of the layer is {self.convergence:.2f}.",
        ]
        if self.ablation is not None:
            # A layer with one channel has no others to compare with.
            others = (
                "" if self.ablation_others is None else f" (others: {self.ablation_others:.1%})"
            )
            sentences.append(
                f"Without the channel the output changes by {self.ablation:.1%}{others}."
            )
        if self.full is not None:
            # None: a sound is silent, so that there is no number, which is not the number 0.
            rise, smooth = self.full.complexity_rise, self.full.smooth
            sentences.append(
                f"With all weights permuted: change in complexity (eMPRT) "
                f"{'silent' if rise is None else f'{rise:+.0%}'}, similarity of the means over "
                f"noisy inputs (sMPRT) {'silent' if smooth is None else f'{smooth:.2f}'}."
            )
        if self.verified is not None:
            sentences.append(
                f"Largest difference of the forward pass from the plain model’s, and of the "
                f"gradient from autograd’s, as shares of their peaks: {self.verified}."
            )
        return " ".join(sentences)

    def __str__(self) -> str:
        return f"{self.title}\n\n{self.controls}\n\n{self.facts}\n{self.verdict}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from deconv1d.report import render_card

        return render_card(self)


def as_good(response: float, told: float | None, sonification: float) -> bool:
    """Whether a control's sounds do as well as the sonification.

    Args:
        response: To the control, as `Control.response`.
        told: As `Control.told`.
        sonification: The response to the sonification.
    """
    # As much is relative to the sonification, not to the input: a channel with a weak response
    # has weak controls too. Half of the sounds, since one draw that is told may be chance.
    return told is not None and told >= 0.5 and response >= AS_MUCH * sonification


def _responds(response: float, place: int, place_on_input: int) -> bool:
    return response >= RESPONDS and place <= place_on_input


def verdict_of(
    *,
    response: float,
    place: int,
    place_on_input: int,
    channels: int,
    told: bool | None,
    as_good: Collection[str],
) -> str:
    """A plain sentence on how far to trust a sonification.

    Args:
        response: As `ControlCard.response`; the next four as there, too.
        place: Among all channels on the sonification.
        place_on_input: The same on the input.
        channels: How many there are.
        told: Whether it is the most active of its rivals.
        as_good: Names of the controls that do as well as the sonification.
    """
    # Ordered by how serious a doubt is; the first that applies is the verdict. Whether a sound is
    # the channel's own is no question where the channel hardly responds to it.
    heard = f"{response:.2f} of its response to the input, place {place}"
    if response < RESPONDS:
        return (
            f"The channel hardly responds to this sound ({heard} of {channels}): do not take "
            f"it for what the channel detects."
        )
    if told is None:
        return (
            f"The channel responds to this sound ({heard}). Whether the sound is its own cannot be "
            f"told: no other channel of its layer is active."
        )
    if not told:
        return (
            f"The channel responds to this sound ({heard}), but a rival responds more: this is "
            f"mostly what channels share, the input passing through."
        )
    if not _responds(response, place, place_on_input):
        # No rival relative to the input, but channels that were less active than this one there.
        return (
            f"The channel responds to this sound ({heard}) more than its rivals do, but channels "
            f"that it leads on the input (place {place_on_input}) respond more: the sound excites "
            f"them too."
        )
    if passing := [name for name in as_good if name in TWINS]:
        return (
            f"The channel responds to this sound more than its rivals do, but also to that of "
            f"{' and '.join(passing)}: the sound does not depend on what the channel learnt."
        )
    # A random map goes through the channel's own filter, so it does not change the verdict. But if
    # its sound does as well, the moments of the real map add little.
    more = (
        " A random map makes such a sound too: it is what the channel lets through, and says "
        "little about when."
        if RANDOM_SEED in as_good
        else ""
    )
    return (
        f"The channel responds to this sound ({heard}), more than its rivals do, and not so to "
        f"that of permuted weights: this sound is specific to the channel.{more}"
    )
