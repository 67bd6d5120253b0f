"""Captum's methods on the same target as ours, side by side; and ours in the form of Captum's."""

from deconv1d.errors import DependencyError

try:
    import captum  # noqa: F401  # the rooms below import it at their top
except ImportError as error:
    raise DependencyError(
        f"Comparing with Captum (deconv1d.compare) is not possible: expected the package captum, "
        f"0.8 or newer, got {error}. Install the extra: pip install 'deconv1d[compare]'."
    ) from error

from deconv1d.compare.comparison import Compared, Comparison
from deconv1d.compare.facade import NeuronSonification, infidelity, max_sensitivity
from deconv1d.compare.quantus import ChannelModel, quantus_explain
from deconv1d.compare.side_by_side import METHODS, compare

__all__ = [
    "METHODS",
    "ChannelModel",
    "Compared",
    "Comparison",
    "NeuronSonification",
    "compare",
    "infidelity",
    "max_sensitivity",
    "quantus_explain",
]
