"""The networks of `benchmarks/architectures` as the tests run them, and waveforms for each."""

import torch


def built(architecture, dtype=torch.float32):
    """The network of seed 0 in `dtype`; `.to` cannot reach the constants of a frozen script."""
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        if architecture.name == "frozen":
            torch.set_default_dtype(dtype)
        return architecture.build().to(dtype)
    finally:
        torch.set_default_dtype(default)


def waveforms(architecture, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return 0.3 * torch.randn(architecture.input_shape, generator=generator, dtype=dtype)
