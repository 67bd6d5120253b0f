"""Where clips come from: folders, globs, tables of paths, tar files, Parquet with the sounds in it.

Clips are listed one at a time, so that memory does not grow with their number, and read by what
their line in the list says: the path of a file, and where in it the clip lies.
"""

from __future__ import annotations

import csv
import glob
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deconv1d.audio import decode_audio, read_audio
from deconv1d.errors import FileError, InputError
from deconv1d.evaluation.recordings import SUFFIXES
from deconv1d.mining.mined import import_parquet, readable

WHOLE = -1
"""The place of a clip that is a file of its own."""
PATHS = ("path", "file", "filename", "file_name")
IDS = ("clip", "id")
"""Columns of a table that names sound files."""
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Clip:
    """Where one clip lies.

    Attributes:
        clip: Its id.
        path: The file that it lies in.
        place: In a tar file, its first byte; in a Parquet file, its row; else -1.
        size: Bytes; -1 if unknown.
        changed: When the file was last changed, in nanoseconds; 0 if it is not there.
    """

    clip: str
    path: str
    place: int = WHOLE
    size: int = -1
    changed: int = 0


def list_clips(sources: Sequence[str]) -> Iterator[Clip]:
    """Lists the clips of some sources, in an order that is the same each time.

    Args:
        sources: Each a folder with sound files in any layout, or with tar or Parquet files; a glob
            (`**` for folders at any depth); a CSV, TSV or Parquet file with a column `path` (and
            `clip`, the ids); a Parquet file with a column of encoded sounds; a tar file as of
            WebDataset; or one sound file. Ids are relative to the folder, or to the part of the
            glob without wildcards; of several sources they begin with that folder's own name.

    Raises:
        FileError: If a source is missing or cannot be listed.
        InputError: If a table lacks the columns.
    """
    for source in sources:
        if os.path.isdir(source):
            yield from _in_folder(source, _root(source, sources))
        elif os.path.exists(source):
            yield from _in_file(source, _text(source))
        elif glob.has_magic(source):
            yield from _in_glob(source, sources)
        else:
            raise FileError(
                f"The source {source!r} cannot be read: expected a folder, a file or a glob, got "
                f"nothing of that name. Check the path."
            )


def read_clip(clip: Clip, sample_rate: int) -> npt.NDArray[np.float32]:
    """The waveform of a clip, mixed down, (time,).

    Args:
        clip: A line of the list.
        sample_rate: In hertz.

    Raises:
        FileError: If it cannot be read.
    """
    if clip.place == WHOLE:
        _check_file(clip.path)
        return read_audio(clip.path, sample_rate)[0]
    is_tar = Path(clip.path).suffix.lower() == ".tar"
    content = _member(clip) if is_tar else _row(clip)
    return decode_audio(content, clip.clip, sample_rate)[0]


def _check_file(path: str | Path) -> None:
    """Raises FileError if what is at a path may never end; what is not there is said elsewhere."""
    if "\0" in str(path):  # Python raises ValueError at such a path
        raise FileError(
            f"{str(path)!r} cannot be read: expected the path of a sound file, got one with a zero "
            f"byte, which no file has. Write the table again."
        )
    if os.path.exists(path) and not os.path.isfile(path):
        raise FileError(
            f"{str(path)!r} cannot be read: expected a sound file, got a folder, a pipe or a "
            f"device. Write the sound into a file."
        )


def _root(folder: str, sources: Sequence[str]) -> str:
    """What the ids of a folder's clips are relative to: itself, or the folder above it."""
    # A data set may have a folder for each class, with files of the same names in each.
    return folder if len(sources) == 1 else os.path.dirname(os.path.abspath(folder))


def _text(path: str) -> str:
    """A path as text that every file format holds, also where it is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _file(path: str, clip: str) -> Clip:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # reading it will say what is wrong
        return Clip(clip, path)
    return Clip(clip, path, size=facts.st_size, changed=facts.st_mtime_ns)


def _in_folder(folder: str, root: str) -> Iterator[Clip]:
    """The sound files in a folder; if there are none, the clips in its tar and Parquet files."""
    found = False
    # Two walks, since a data set of sounds may have tables of labels and archives beside them.
    for path in _walk(folder):
        if Path(path).suffix.lower() in SUFFIXES:
            found = True
            yield _file(path, _text(os.path.relpath(path, root)))
    if found:
        return
    for path in _walk(folder):
        if Path(path).suffix.lower() in (".tar", ".parquet"):
            yield from _in_file(path, _text(os.path.relpath(path, root)))


def _walk(folder: str) -> Iterator[str]:
    """Every file that is not hidden, in the order of names; links to folders are followed once."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        # `os.walk` goes on into what is left in this list.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(place, f) for f in sorted(files) if not f.startswith("."))


def _in_glob(pattern: str, sources: Sequence[str]) -> Iterator[Clip]:
    """The files that a glob matches; if it matches none, what is in the folders."""
    steps = pattern.split(os.sep)
    fixed = next(n for n, step in enumerate(steps) if glob.has_magic(step))
    without = os.sep.join(steps[:fixed]) or (os.sep if pattern.startswith(os.sep) else ".")
    root = _root(without, sources)
    found = sorted(glob.iglob(pattern, recursive=True))
    files = [path for path in found if os.path.isfile(path)]
    # `**` also matches the folders that the files lie in.
    for path in files or found:
        if os.path.isdir(path):
            yield from _in_folder(path, root)
        else:
            yield from _in_file(path, _text(os.path.relpath(path, root)))


def _in_file(path: str, name: str) -> Iterator[Clip]:
    suffix = Path(path).suffix.lower()
    if suffix == ".tar":
        return _in_tar(path, name)
    if suffix in TABLES:
        return _in_table(path, name, suffix)
    return iter([_file(path, name)])


# --- tar files -----------------------------------------------------------------------------------


def _in_tar(path: str, name: str) -> Iterator[Clip]:
    changed = os.stat(path).st_mtime_ns
    try:
        with tarfile.open(path, "r:") as tar:
            listed: Any = tar
            for member in tar:
                listed.members = []  # else it keeps a record of each
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    clip = f"{name}/{_text(member.name)}"
                    yield Clip(clip, path, member.offset_data, member.size, changed)
            # tarfile takes a header that is cut for the end; at the end there are zeros.
            with open(path, "rb") as file:
                file.seek(tar.offset)
                if any(block := file.read(512)):
                    raise tarfile.ReadError(f"{len(block)} bytes that are no header")
    except (tarfile.TarError, OSError) as error:
        raise FileError(
            f"{path!r} cannot be listed: expected a whole tar file that is not compressed, got "
            f"{error}. Copy it again, or unpack it: gunzip FILE.tar.gz"
        ) from error


def _member(clip: Clip) -> bytes:
    try:
        with open(clip.path, "rb") as file:
            file.seek(clip.place)
            content = file.read(clip.size)
    except OSError as error:
        raise FileError(
            f"{clip.path!r} cannot be read: {error.strerror}. Put the tar file back."
        ) from error
    if len(content) < clip.size:
        raise FileError(
            f"{clip.clip!r} is cut short: expected {clip.size} bytes, got {len(content)}. Copy the "
            f"tar file again."
        )
    return content


# --- tables --------------------------------------------------------------------------------------


def _in_table(path: str, name: str, suffix: str) -> Iterator[Clip]:
    if suffix == ".parquet":
        arrow, parquet = import_parquet()
        try:
            file = parquet.ParquetFile(readable(path))
            sounds = _sounds_column(arrow, file.schema_arrow)
            if sounds is not None:
                return _in_rows(path, name, file, *sounds)
            wanted = [name for name in (*PATHS, *IDS) if name in file.schema_arrow.names]
            columns = file.schema_arrow.names
        except (OSError, arrow.ArrowException) as error:
            raise _no_table(path, error) from error
        batches = file.iter_batches(columns=wanted)
        rows = (row for batch in batches for row in batch.to_pylist())
        return _named(path, columns, rows)
    return _in_csv(path, "\t" if suffix == ".tsv" else ",")


def _in_csv(path: str, delimiter: str) -> Iterator[Clip]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            yield from _named(path, reader.fieldnames or [], reader)
    except (OSError, UnicodeError, csv.Error) as error:
        if isinstance(error, FileError):
            raise
        raise _no_table(path, error) from error


def _named(path: str, columns: Sequence[str], rows: Iterable[Any]) -> Iterator[Clip]:
    """The sound files that a table names, relative to its own folder."""
    files = next((name for name in PATHS if name in columns), None)
    if files is None:
        raise InputError(
            f"The table {path!r} names no sound files: expected a column {' or '.join(PATHS)} (and "
            f"{' or '.join(IDS)} for ids), or one of encoded sounds, got the columns "
            f"{', '.join(map(repr, columns)) or 'none'}. Rename one."
        )
    ids = next((name for name in IDS if name in columns), files)
    folder = Path(path).parent
    for number, row in enumerate(rows):
        if not isinstance(row[files], str) or not row[files]:
            raise InputError(
                f"The table {path!r} has no path in row {number + 1}: expected a sound file, got "
                f"{row[files]!r}. Complete or delete the row."
            )
        if row[ids] is None:
            raise InputError(
                f"The table {path!r} has no {ids} in row {number + 1}: expected what tells the "
                f"clip from others, got nothing. Complete or delete the row, or the column."
            )
        yield _file(str(folder / row[files]), str(row[ids]))


def _no_table(path: str, error: Exception) -> FileError:
    return FileError(
        f"{path!r} cannot be read: expected a table in UTF-8 with a header (.csv, .tsv) or Parquet "
        f"(.parquet), got {type(error).__name__}: {error}. Write it again."
    )


def _sounds_column(arrow: Any, schema: Any) -> tuple[str, str | None] | None:
    """The column that holds encoded sounds, and the one with their ids.

    Datasets of Hugging Face hold structs of bytes and path.
    """
    types = arrow.types
    for field in schema:
        nested = types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if nested or types.is_binary(field.type) or types.is_large_binary(field.type):
            ids = next((name for name in IDS if name in schema.names), None)
            paths = nested and field.type.get_field_index("path") >= 0
            return field.name, ids or (f"{field.name}.path" if paths else None)
    return None


def _in_rows(path: str, name: str, file: Any, sounds: str, ids: str | None) -> Iterator[Clip]:
    changed, place = os.stat(path).st_mtime_ns, 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        told = [None] * count if ids is None else _column(file, group, ids)
        for own in told:
            yield Clip(f"{name}/{place if own is None else own}", path, place, changed=changed)
            place += 1


def _column(file: Any, group: int, name: str) -> list[Any]:
    column = file.read_row_group(group, columns=[name]).column(0).to_pylist()
    inner = name.partition(".")[2]
    return [value and value[inner] for value in column] if inner else column


def _row(clip: Clip) -> bytes:
    arrow, _ = import_parquet()
    try:
        group, first = _group_of(clip.path, clip.place, clip.changed)
        value = _sounds(clip.path, group, clip.changed)[clip.place - first].as_py()
    except (OSError, arrow.ArrowException) as error:
        raise FileError(
            f"{clip.path!r} cannot be read: {type(error).__name__}: {error}. Copy it again."
        ) from error
    if isinstance(value, dict) and value["bytes"] is None and value.get("path"):
        beside = Path(clip.path).parent / value["path"]
        return _bytes_of(beside)
    content = value["bytes"] if isinstance(value, dict) else value
    if content is None:
        raise FileError(
            f"{clip.clip!r} holds no sound: expected bytes in row {clip.place} of {clip.path!r}, "
            f"got none. Write the data set with its sounds embedded."
        )
    return bytes(content)


def _bytes_of(path: Path) -> bytes:
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{str(path)!r} cannot be read: {error.strerror}. Put it beside its table."
        ) from error


def _group_of(path: str, row: int, changed: int) -> tuple[int, int]:
    """The row group that a row lies in, and that group's first row."""
    ends = _ends(path, changed)
    group = int(np.searchsorted(ends, row, side="right"))
    return group, 0 if group == 0 else int(ends[group - 1])


# The time of change is part of the key: a file that was written anew is read anew.
@lru_cache(maxsize=16)
def _ends(path: str, changed: int) -> npt.NDArray[np.int64]:
    _, parquet = import_parquet()
    facts = parquet.ParquetFile(readable(path)).metadata
    return np.cumsum([facts.row_group(n).num_rows for n in range(facts.num_row_groups)])


# Two: rows are read in their order, but by several threads.
@lru_cache(maxsize=2)
def _sounds(path: str, group: int, changed: int) -> Any:
    arrow, parquet = import_parquet()
    file = parquet.ParquetFile(readable(path))
    found = _sounds_column(arrow, file.schema_arrow)
    assert found is not None
    return file.read_row_group(group, columns=[found[0]]).column(0)
