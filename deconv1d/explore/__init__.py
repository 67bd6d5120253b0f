"""A live page: drop or record a clip, choose a layer and a channel, and listen."""

from deconv1d.explore.server import serve
from deconv1d.explore.studio import Studio

__all__ = ["Studio", "serve"]
