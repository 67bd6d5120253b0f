"""Reads "Example:" in docstrings as the reference's "Examples:", whose code is shown as code.

An extension of Griffe, which reads the docstrings for mkdocstrings (see mkdocs.yml).
"""

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the section in each docstring that is read; the code keeps its own name for it."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_more: Any) -> None:
        """Called by Griffe for each object of the package."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
