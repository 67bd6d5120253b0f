"""The clips of a data set that each channel responds to most."""

from deconv1d.mining.mine import SCORES, mine
from deconv1d.mining.mined import Mined, MinedRow, Ranking, Settings, merge

__all__ = ["SCORES", "Mined", "MinedRow", "Ranking", "Settings", "merge", "mine"]
