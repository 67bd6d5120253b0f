"""The command `deconv1d`."""

from deconv1d.cli.commands import main

__all__ = ["main"]
