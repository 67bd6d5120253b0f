"""EEG networks of the package braindecode, most with convolutions over (electrode, time).

braindecode asks for torchaudio, which some of its other networks use; where that cannot be
imported, an empty stand-in takes its place while braindecode is imported. Without torchaudio it is
installed by hand, with what it imports:

    pip install --no-deps braindecode docstring_inheritance torchinfo mne skorch decorator wfdb
    pip install --no-deps lazy_loader pooch tabulate einops mne_bids h5py linformer
    pip install --no-deps linear_attention_transformer product_key_memory colt5_attention
    pip install --no-deps axial_positional_embedding local_attention hyper-connections
    pip install --no-deps torch-einops-utils
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from typing import Any
from unittest.mock import MagicMock

from torch import nn

from .architecture import Architecture, trained_like

ELECTRODES, TIMES, RATE = 8, 512, 128
UNUSED = ("torchaudio", "torchaudio.functional", "torchaudio.transforms")


def _models() -> Any:
    """The module braindecode.models."""
    try:
        import torchaudio  # noqa: F401  # braindecode imports it
    except (ImportError, OSError):
        for name in UNUSED:
            sys.modules[name] = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None))
        try:
            import braindecode.models
        finally:
            for name in UNUSED:
                del sys.modules[name]
    import braindecode.models

    return braindecode.models


def _network(name: str, settings: dict[str, Any]) -> nn.Module:
    given = {"n_chans": ELECTRODES, "n_times": TIMES, "n_outputs": 3, "sfreq": RATE}
    return trained_like(getattr(_models(), name)(**given | settings))


def _row(name: str, family: str, layers: tuple[str, str, str], **settings: Any) -> Architecture:
    return Architecture(
        name,
        lambda: _network(family, settings),
        (2, settings.get("n_chans", ELECTRODES), settings.get("n_times", TIMES)),
        RATE,
        layers,
        requires="braindecode",
    )


ARCHITECTURES = (
    _row(
        "braindecode_eegnet",
        "EEGNet",
        ("conv_temporal", "conv_separable_depth", "final_layer.conv_classifier"),
    ),
    _row("deep4net", "Deep4Net", ("conv_2", "conv_4", "final_layer.conv_classifier")),
    _row(
        "eegconformer",
        "EEGConformer",
        ("patch_embedding.shallownet.0", "patch_embedding.shallownet.1", "final_layer"),
    ),
    _row("atcnet", "ATCNet", ("conv_block.conv1", "temporal_conv_nets.1.1.conv1", "final_layer.3")),
    _row("eegnex", "EEGNeX", ("block_1.1", "block_3.0", "final_layer")),
    _row("eegtcnet", "EEGTCNet", ("eegnet_tc.conv1", "tcn_block.downsample", "final_layer")),
    _row(
        "eegitnet", "EEGITNet", ("inception_block.branches.0.0", "TC_block1.tc2.0", "final_layer")
    ),
    _row(
        "eeginceptionmi",
        "EEGInceptionMI",
        ("residual_block_1.conv", "residual_block_2.conv", "final_layer.fc"),
    ),
    _row(
        "tidnet",
        "TIDNet",
        ("dscnn.temporal.2.net.0.0", "dscnn.spatial.net.0.net.5", "final_layer.0"),
    ),
    _row(
        "sleepstagerchambon2018",
        "SleepStagerChambon2018",
        ("spatial_conv", "feature_extractor.0", "final_layer.1"),
    ),
    _row(
        "usleep",
        "USleep",
        ("encoder_blocks.0.block_prepool.0", "decoder_blocks.3.block_postskip.0", "final_layer.2"),
    ),
    _row("deepsleepnet", "DeepSleepNet", ("cnn1.conv1.0", "cnn2.conv1.0", "final_layer")),
    _row(
        "sparcnet",
        "SPARCNet",
        ("encoder.conv0", "encoder.denseblock4.denselayer3.conv1", "final_layer"),
    ),
    _row("tsception", "TSception", ("temporal_blocks.0.0", "temporal_blocks.2.0", "final_layer")),
    _row(
        "biot",
        "BIOT",
        (
            "encoder.patch_embedding.projection#1",
            "encoder.transformer.layers.layers.2.0.fn.to_q",
            "final_layer.classification_head",
        ),
    ),
    _row("ctnet", "CTNet", ("cnn.eegnet_module.0", "cnn.eegnet_module.2", "final_layer")),
    _row(
        "attentionbasenet",
        "AttentionBaseNet",
        ("input_block.temporal_conv", "channel_expansion.0", "final_layer.1"),
    ),
)
