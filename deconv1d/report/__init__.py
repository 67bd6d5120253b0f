"""A page to look at and listen to: recordings, their layers, and each layer's sounds."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from deconv1d.audio import Waveform
from deconv1d.errors import FileError
from deconv1d.report.sounds import PlayerSound, player_sounds, speed_of
from deconv1d.templates import rendered

if TYPE_CHECKING:
    from deconv1d.evaluation.card import ControlCard

PAGE = "index.html"
MADE_BY = '<meta name="generator" content="deconv1d">'


@dataclass(frozen=True)
class LayerEntry:
    """One layer of one recording.

    Attributes:
        name: The layer.
        facts: What to know of it, shown as plain text.
        sounds: Between which the player switches, the input first; addresses relative to the page.
        seconds: How long they are.
    """

    name: str
    facts: Mapping[str, str]
    sounds: Sequence[PlayerSound]
    seconds: float


@dataclass(frozen=True)
class Recording:
    """One recording and what the layers respond to in it.

    Attributes:
        title: Plain text, unique in the page.
        about: One line of plain text.
        layers: In the network's order.
    """

    title: str
    about: str
    layers: Sequence[LayerEntry]


def render_page(title: str, paragraphs: Sequence[str], recordings: Sequence[Recording]) -> str:
    """Writes the HTML of a page that opens from disk, with nothing from elsewhere.

    Args:
        title: Plain text.
        paragraphs: What stands above the recordings, plain text; all but the first are folded.
        recordings: What to show; their files are named relative to the page.
    """
    return rendered("page.html", title=title, paragraphs=paragraphs, recordings=recordings)


def render_card(card: ControlCard, *, level: int = 3) -> str:
    """Writes the HTML of a control card, its sounds inside: a part of a page, without scripts.

    Args:
        card: As `Sonifier.control_card` makes it.
        level: Of its heading, 1 to 6; on a page of its own 1.
    """
    player = render_player("Sonification and controls", card.sounds, card.sample_rate, first=1)
    table = card.controls._repr_html_()
    return rendered("card.html", card=card, table=table, player=player, level=level)


def render_player(
    label: str, waveforms: Mapping[str, Waveform], sample_rate: int, *, first: int = 0
) -> str:
    """Writes the HTML of one player that switches between sounds, which are inside.

    Without a script, as in a notebook, it is a list of players.

    Args:
        label: What is heard, plain text.
        waveforms: By name, the one that the others are compared with first.
        sample_rate: In hertz.
        first: The number of the sound that the player begins with.
    """
    reference = next(iter(waveforms.values()))
    return rendered(
        "players.html",
        label=label,
        sounds=player_sounds(waveforms, sample_rate),
        seconds=reference.shape[-1] / (sample_rate * speed_of(sample_rate)),
        start=None,
        end=None,
        first=first,
    )


def render_document(title: str, part: str) -> str:
    """Writes the HTML of a whole page around one part that is HTML already.

    Args:
        title: Plain text.
        part: HTML, such as `render_card` makes.
    """
    return rendered("document.html", title=title, part=part)


@contextmanager
def whole_folder(folder: str | Path, *, names: Collection[str]) -> Iterator[Path]:
    """Gives a folder to fill, which gets its name when it is complete; it replaces an older page.

    Args:
        folder: Its name. There is no such folder, an empty one, or one with an older page.
        names: The names that files beside an older page may have, or patterns of them ("*" and
            "[0-9]"): it is replaced only if there are no others.

    Yields:
        The folder under a temporary name, next to `folder`.

    Raises:
        FileError: If the folder cannot be written or holds something else.
    """
    folder = Path(folder).resolve()
    _restore(folder)
    if folder.exists() and not _may_go(folder, names):
        raise FileError(
            f"{str(folder)!r} cannot be written: expected no such folder, an empty one, or an "
            f"older page and its files alone, got other files or the current folder. Give another "
            f"name, or move it away."
        )
    # Filled under a temporary name in the same folder, so that the last step is a rename, which
    # happens or does not: a reader never sees half a page.
    part = folder.with_name(f".{uuid.uuid4().hex}.part")
    old = _put_aside(folder)
    try:
        part.mkdir()
        yield part
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"{str(folder)!r} cannot be written: {error.strerror}. Give a name in a folder that "
            f"exists, may be written to and has space."
        ) from error
    finally:
        # The second rename failed: the older page gets its name back.
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _put_aside(folder: Path) -> Path:
    """Where an older page waits for the moment between two renames, under a name to find it by."""
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Puts back the older page of a run that was killed between the two renames."""
    old = _put_aside(folder)
    if old.is_dir() and not folder.exists():
        with suppress(OSError):
            os.replace(old, folder)


def _may_go(folder: Path, names: Collection[str]) -> bool:
    """Tells whether a folder, not the current one, is empty or has only an older page."""
    if not folder.is_dir() or folder == Path.cwd():
        return False
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    page = folder / PAGE
    # A folder of the user's with an index.html of their own must never be replaced.
    made_by_us = page.is_file() and MADE_BY in page.read_text("utf-8", "replace")
    return not files or (made_by_us and all(_named(path.name, names) for path in files))


def _named(name: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in names)
