"""The clips of a data set that each channel responds to most."""

from deconv1d.mining.mine import mine
from deconv1d.mining.mined import Mined, MinedRow, Ranking, Settings, merge
from deconv1d.mining.ranking import SCORES

__all__ = ["SCORES", "Mined", "MinedRow", "Ranking", "Settings", "merge", "mine"]
