"""A live page: drop or record a clip, choose a layer and a channel, and listen."""

from deconv1d.explore.server import serve
from deconv1d.explore.studio import Studio
from deconv1d.explore.widget import explore_widget

__all__ = ["Studio", "explore_widget", "serve"]
