"""The record of a comparison: what each method made of one channel in one clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deconv1d.render import plot_spectrograms
from deconv1d.table import Table
from deconv1d.templates import rendered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = (
    "answer, selectivity: of the channel, when the model hears the sound. coherence: with the "
    "input. minus control: that less a random seed's by the same method. sparsity: Gini index."
)


@dataclass(frozen=True)
class Compared:
    """How one method does; the numbers are None where it failed.

    Attributes:
        method: Ours ("deconvnet", "guided", "gradient", "mask") or the name of Captum's class.
        answer: The channel's activation on hearing the sound, over that on hearing the input.
        selectivity: The channel's activation on hearing the sound, over the median of the others';
            infinite where that is not above 0.
        coherence: Mean of the five highest coherences of sound and input, 0 to 1.
        minus_control: `coherence` minus that of the same method with a random seed.
        sparsity: Gini index of the sound's magnitudes, 0 to 1.
        seconds: Median run time.
        note: Where the method failed, or did something else than its name says.
    """

    method: str
    answer: float | None = field(default=None, metadata={"none": "-"})
    selectivity: float | None = field(default=None, metadata={"none": "-"})
    coherence: float | None = field(default=None, metadata={"none": "-"})
    minus_control: float | None = field(default=None, metadata={"none": "-"})
    sparsity: float | None = field(default=None, metadata={"none": "-"})
    seconds: float | None = field(default=None, metadata={"none": "-"})
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Several methods on one target, to print, look at and listen to.

    Attributes:
        layer: The layer's full name.
        channel: The channel.
        methods: One row for each method.
        sounds: The input and each method's sound, scaled to its peak, (time,) or (channels, time),
            by name; none of methods that failed.
        sample_rate: In hertz.
    """

    layer: str
    channel: int
    methods: Table[Compared]
    sounds: dict[str, Tensor]
    sample_rate: int

    def __getitem__(self, name: str) -> Compared:
        """Returns the row of a method."""
        return next(row for row in self.methods if row.method == name)

    @property
    def title(self) -> str:
        """What was compared."""
        return f"Methods on layer {self.layer!r}, channel {self.channel}"

    @property
    def summary(self) -> str:
        """What the numbers come to, in plain sentences."""
        known = [(row, row.answer, row.minus_control) for row in self.methods]
        heard = [(row.method, a, m) for row, a, m in known if a is not None and m is not None]
        text = f"Of {len(known)} methods {len(heard)} gave a sound."
        if not heard:
            return text
        method, most, _ = max(heard, key=lambda each: each[1])
        text += (
            f" The channel responds most to that of {method}: {most:.2f} of its response to the "
            f"recording."
        )
        alike = [name for name, _, minus in heard if minus <= 0]
        if alike:
            # A method that passes the recording through resembles it whatever the channel is.
            text += (
                f" The sound of {' and that of '.join(alike)} is no more like the recording than "
                f"the same method's random control: that likeness says nothing of the channel."
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the sounds, for JSON; infinite numbers as None."""
        # JSON has no infinity: Python would write `Infinity`, which other parsers refuse.
        rows = [{k: _finite(v) for k, v in vars(row).items()} for row in self.methods]
        return {"layer": self.layer, "channel": self.channel, "methods": rows}

    def plot(self, *, dark: bool = False) -> Figure:
        """Draws the spectrograms of the input and of each method's sound as a Matplotlib figure.

        Args:
            dark: Light on dark instead of dark on light.
        """
        return plot_spectrograms(self.sounds, self.sample_rate, dark=dark)

    def __str__(self) -> str:
        return f"{self.title}\n\n{self.methods}\n\n{COLUMNS}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, *, level: int = 3) -> str:
        """Writes the HTML of a part of a page, its sounds inside, without scripts.

        Args:
            level: Of its heading, 1 to 6; on a page of its own 1.
        """
        from deconv1d.report import render_player

        player = render_player(self.title, self.sounds, self.sample_rate)
        # Both parts are HTML already; the template escapes only the text.
        table = self.methods._repr_html_()
        return rendered(
            "comparison.html",
            title=self.title,
            summary=self.summary,
            table=table,
            columns=COLUMNS,
            player=player,
            level=level,
        )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
