"""What the paper claims, and what must be true of the networks before a claim can be tested."""

from dataclasses import dataclass

BOTH = ("contrastive", "supervised")
"""Gate 1 for either regime: its features beat those of untrained encoders."""
ON_EVENTS = tuple(f"{regime}, sound events" for regime in BOTH)
ON_WORDS = tuple(f"{regime}, words" for regime in BOTH)
"""The same on the task that a claim is about."""
RECOGNISERS = ("recogniser, fonly", "recogniser, full")
"""Gate 2: the networks that are listened to recognise what they are asked for."""


@dataclass(frozen=True)
class Said:
    """A claim of the paper.

    Attributes:
        text: The claim in a few words.
        source: Where the paper makes it.
        gates: Names of the gates that must be passed before it can be tested, where what is
            compared does not say so itself (`finding.Claim`).
    """

    text: str
    source: str
    gates: tuple[str, ...] = ()


CLAIMS = {
    "central": Said(
        "deep self-supervised layers sound more discernible than supervised ones",
        "abstract, 3.3.2",
    ),
    "a": Said("removing sonifications hurts more than controls do", "4.1, figure 6", RECOGNISERS),
    "b": Said("coherence falls with depth", "4.2, figure 7", BOTH),
    "c": Said("it falls faster for supervised networks", "4.2, figure 7", BOTH),
    "d": Said("deep contrastive layers are more active", "3.3.1", BOTH),
    "e": Said("early layers transfer better from contrastive weights", "B, figure 4"),
    "f": Said("pooling beats stride", "3.2", ("supervised",)),
    "g": Said("removal varies less over layers for fonly; full is more robust", "4.1", RECOGNISERS),
    "h": Said(
        "supervised weights overtake in deep layers, on sound events", "B, figure 4", ON_EVENTS
    ),
    "i": Said("frozen, a middle layer beats the top one on words", "B, figure 4", ON_WORDS),
    "j": Said("each augmentation helps, and so does a lower temperature", "A.2", ("contrastive",)),
    "k": Said("deep contrastive filters' strongest inputs share more labels", "3.3.2", BOTH),
    "l": Said("removing sonifications lowers recognition", "4.1, figure 6", RECOGNISERS),
    "m": Said("a shift by any offset moves the sonification alike", "3.2, figure B.3"),
    "n": Said("a shift by a multiple of 256 samples does so exactly", "ours, of figure B.3"),
    "o": Said("the order of table A.2", "table A.2", ("contrastive",)),
    "p": Said("the order of table A.4", "table A.4", ON_EVENTS),
    "q": Said("the order of table A.6", "table A.6", ON_WORDS),
    "r": Said("the first checkpoint's sonifications show a full spectrum", "3.4", ("contrastive",)),
    "s": Said(
        "layer 1 is as band-selective in both regimes, deep layers more so in supervised networks",
        "3.3.1, figure 1",
        BOTH,
    ),
}
"""By letter, in the order of the report's first page."""
