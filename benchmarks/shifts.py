"""How a shift of the input shifts its sonification (paper, figure B.3).

A clip is cut from a longer recording at two places, so that both see the same samples but for the
ends. Compared is the middle, where no end is within a receptive field.
"""

from __future__ import annotations

import torch

from benchmarks.reporting import HERE, table, write_page
from deconv1d import Sonifier
from reference_models.cnn12 import CNN12
from reference_models.experiments.shifts import LENGTH, loudest_map, shift_errors

LAYERS = (1, 2, 4, 6, 8, 11)
SHIFTS = (256, 1024, 8448, 128, 64, 16, 1, 37, 8645)


def network() -> CNN12:
    """CNN12 at width 1/4 with weights that keep the level."""
    torch.manual_seed(0)
    model = CNN12(width=1 / 4).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def main() -> None:
    """Writes SHIFTS.md."""
    sonifier = Sonifier(network())
    noise = torch.randn(LENGTH + max(SHIFTS), dtype=torch.float64)
    errors = []
    for layer in (f"conv{number}" for number in LAYERS):
        channel = loudest_map(sonifier, noise, layer=layer)
        found = shift_errors(sonifier, noise, layer=layer, channel=channel, shifts=SHIFTS)
        errors.append(found)
    rows = [[shift, *(f"{found[shift]:.1e}" for found in errors)] for shift in SHIFTS]
    head = ["shift, samples", *(f"conv{n} (stride {2 ** min(n, 8)})" for n in LAYERS)]
    body = (
        "Difference between the shifted sonification and the sonification of the shifted input, "
        "away from the ends, relative to the peak. CNN12 of width 1/4, random weights, noise, "
        "float64. Exact for multiples of the pools' total stride, and for no other shift.\n\n"
    )
    write_page(
        HERE / "SHIFTS.md",
        "Shifts",
        "python benchmarks/shifts.py",
        body + table(head, rows),
        ("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
