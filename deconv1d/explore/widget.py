"""The live view as a widget in notebooks: the same page, whose words come as messages."""

from __future__ import annotations

import json
import traceback
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconv1d.errors import DependencyError, InputError
from deconv1d.explore.studio import LARGEST_CLIP, Studio, message_of
from deconv1d.templates import FOLDER

if TYPE_CHECKING:
    from deconv1d.sonify import Sonifier


def explore_widget(sonifier: Sonifier, audio: str | Path | None = None) -> Any:
    """The live view of a model, as the last line of a notebook's cell shows it.

    Args:
        sonifier: Of the model, with its sample rate.
        audio: A sound file to begin with.

    Returns:
        An `anywidget.AnyWidget`.

    Raises:
        InputError: If the sonifier has no sample rate.
        FileError: If the sound file cannot be read.
        DependencyError: If anywidget is not installed.
    """
    studio = Studio(sonifier)
    start = {} if audio is None else studio.take_file(audio)
    answers: dict[str, Callable[[Any, list[Any]], Any]] = {
        "start": lambda body, buffers: start,
        "clip": lambda body, buffers: studio.take(_one(buffers)),
        "sonify": lambda body, buffers: studio.hear(json.loads(body)),
    }

    def receive(widget: Any, content: Any, buffers: list[Any]) -> None:
        number = content.get("id") if isinstance(content, dict) else None
        try:
            answer = answers[content["address"]]
            widget.send({"id": number, "facts": answer(content.get("body"), buffers)})
        except Exception as error:
            if not isinstance(error, InputError | OSError | LookupError | ValueError | TypeError):
                traceback.print_exc()
            widget.send({"id": number, "message": message_of(error)})

    # The style goes as data: a widget is a tree of its own, which the page's styles do not reach.
    widget = _widget_class()(style=style())
    widget.on_msg(receive)
    return widget


def _one(buffers: list[Any]) -> bytes:
    """The clip that was sent."""
    if len(buffers) != 1 or len(buffers[0]) > LARGEST_CLIP:
        raise InputError(
            f"The clip cannot be taken: expected one file of {LARGEST_CLIP // 2**20} MiB at most, "
            f"got {'a larger one' if len(buffers) == 1 else len(buffers)}. Cut the recording."
        )
    return bytes(buffers[0])


def script() -> str:
    """The module that a notebook's browser runs."""
    page, explore, widget = (
        (FOLDER / name).read_text("utf-8") for name in ("page.js", "explore.js", "widget.js")
    )
    # One player and one listener for keys, however many widgets there are.
    return f"if (!globalThis.deconv1d) {{\n{page}\n{explore}\n}}\n{widget}"


def style() -> str:
    """The stylesheet of all pages, for the tree that the widget is alone in."""
    text = (FOLDER / "page.css").read_text("utf-8")
    return text.replace(":root", ":host").replace("\nbody {", "\nmain {")


# Made once, and only when it is asked for: anywidget is an extra.
@cache
def _widget_class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise DependencyError(
            f"The live view cannot be shown in a notebook: expected anywidget, got {error}. "
            f"Install it: pip install 'deconv1d[explore]'"
        ) from error

    def fill(namespace: dict[str, Any]) -> None:
        namespace["_esm"] = script()
        namespace["style"] = traitlets.Unicode().tag(sync=True)

    return types.new_class("ExploreWidget", (anywidget.AnyWidget,), exec_body=fill)
