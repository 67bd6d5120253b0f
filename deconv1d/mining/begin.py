"""The beginning of a run of mining: the folder, the list of clips, the plan."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from deconv1d.errors import DependencyError, FileError, InputError
from deconv1d.layers.maps import LayerMaps
from deconv1d.layers.table import LayerRow, each_map_once
from deconv1d.mining import findings
from deconv1d.mining.batches import BatchedMaps
from deconv1d.mining.long import beginning_of, open_clip
from deconv1d.mining.mine import check_different, weights_hash
from deconv1d.mining.mined import import_parquet
from deconv1d.mining.plan import (
    Listing,
    Plan,
    check_same,
    full_disk,
    group_clips,
    read_list,
    read_plan,
    shard_size,
    write_list,
    write_plan,
)
from deconv1d.mining.sources import list_clips
from deconv1d.progress import bar
from deconv1d.sonification import needed_rate
from deconv1d.sonify import Sonifier

BATCH = 16
PROBED = 64
"""If none of the first so many clips can be used, something else than the clips is wrong."""


@dataclass(frozen=True)
class Asked:
    """The options of `mine_into` that a plan is made of; see there."""

    layers: Sequence[str] | None
    top: int
    score: str
    tap: str
    method: str
    seed: str
    batch: int | None
    shard_clips: int | None
    threads: int
    trust: bool
    mask: bool


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder, for this run alone."""
    import_parquet()
    _check_name(out)
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise DependencyError(
            f"Clips cannot be mined into a folder: expected filelock, got {error}. Install it: "
            f"pip install 'deconv1d[reference]'"
        ) from error
    with full_disk(out):
        _check_free(out)
        for name in ("", findings.SHARDS, findings.HEARD):
            (out / name).mkdir(parents=True, exist_ok=True)
    try:
        # A lock of the system's: it is free again when a run was killed.
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"{str(out)!r} is being written by another run: expected this one to be alone. Wait "
            f"for it, or name another folder."
        ) from error
    finally:
        _leave_nothing_empty(out)


def _check_free(out: Path) -> None:
    """Raises InputError if the folder holds what is another's."""
    if out.exists() and not out.is_dir():
        raise InputError(
            f"{str(out)!r} cannot be used: expected a folder, got a file. Name another."
        )
    inside = [p for p in out.iterdir() if p.name != ".lock"] if out.exists() else []
    if inside and not (out / findings.PLAN).exists():
        raise InputError(
            f"{str(out)!r} cannot be used: expected a new or empty folder, or one of an earlier "
            f"run, got one that holds {inside[0].name!r}. Name another."
        )


def _check_name(out: Path) -> None:
    """Raises FileError if no folder can have this name."""
    try:
        out.lstat()
    except ValueError as error:
        raise FileError(
            f"{str(out)!r} cannot be written: expected the name of a folder, got {error}. Name "
            f"another."
        ) from error
    except OSError:  # it is made, or whoever makes it says what is wrong
        return


def _leave_nothing_empty(out: Path) -> None:
    """Removes the folders again where nothing was begun."""
    if not (out / findings.PLAN).exists():
        # The innermost first; `rmdir` refuses a folder that holds anything, as it should.
        with contextlib.suppress(OSError):
            (out / ".lock").unlink(missing_ok=True)
            for name in (findings.SHARDS, findings.HEARD, ""):
                (out / name).rmdir()


def begun(
    out: Path,
    sources: Sequence[str],
    sonifier: Sonifier,
    asked: Asked,
    progress: bool,
) -> tuple[Plan, list[dict[str, Any]], str | None]:
    """The plan, what layers.json says of the layers, and why clips are not run in batches."""
    part = out / f"{findings.CLIPS}.part"
    try:
        found = bar(list_clips(sources), desc="listing", unit="clips", shown=progress)
        # A folder inside the data holds sounds, too, from the first run on.
        own = os.path.abspath(out) + os.sep
        clips = (c for c in found if not os.path.abspath(c.path).startswith(own))
        listing = write_list(part, clips)
        if not listing.clips:
            raise InputError(
                f"No clips were found: expected sound files in {', '.join(map(repr, sources))}, "
                f"got none. Check the path; hidden files and other suffixes are left out."
            )
        maps, rows, why = _probed(sonifier, part, asked)
        layers = tuple(found.layer for found in maps)
        plan = _as_before(_plan(sonifier, layers, listing, asked, one_by_one=bool(why)), out, asked)
        # Not before the plan agrees with that of the earlier run: what was asked for now may be of
        # other clips, and the list is what the shards of the earlier run are of.
        os.replace(part, out / findings.CLIPS)
        write_plan(out, plan)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    kinds = {row.name: row.type for row in rows}
    return plan, [_about(found, kinds) for found in maps], why


def _plan(
    sonifier: Sonifier, layers: tuple[str, ...], listing: Listing, asked: Asked, *, one_by_one: bool
) -> Plan:
    """The plan of a run into a new folder."""
    batch = asked.batch or (1 if one_by_one else BATCH)
    group = group_clips(batch)
    size = asked.shard_clips or shard_size(listing.clips, batch)
    return Plan(
        model=weights_hash(sonifier.model),
        sample_rate=int(needed_rate(sonifier.sample_rate, "mining")),
        layers=layers,
        top=asked.top,
        score=asked.score,
        tap=asked.tap,
        method=asked.method,
        seed=asked.seed,
        batch=1 if one_by_one else batch,
        threads=asked.threads,
        clips=listing.clips,
        clips_sha256=listing.sha256,
        # Whole groups: see `group_clips`.
        shard_clips=-(-size // group) * group,
        trust=asked.trust,
        mask=asked.mask,
    )


def _as_before(plan: Plan, out: Path, asked: Asked) -> Plan:
    """The plan, if the folder is new; else as that of the earlier run, which it must agree with."""
    before = read_plan(out)
    if before is None:
        return plan
    # What was not asked for stays as it was.
    size = plan.shard_clips if asked.shard_clips else before.shard_clips
    trust, mask = plan.trust or before.trust, plan.mask or before.mask
    plan = replace(plan, shard_clips=size, trust=trust, mask=mask)
    check_same(before, plan, out)
    return plan


def _probed(
    sonifier: Sonifier, listed: Path, asked: Asked
) -> tuple[list[LayerMaps], list[LayerRow], str | None]:
    """The layers' maps on the first clip that can be used, and whether batches can."""
    rate = int(needed_rate(sonifier.sample_rate, "mining"))
    reasons: list[Exception] = []
    for clip in islice(read_list(listed), PROBED):
        try:
            waveform = beginning_of(open_clip(clip, rate), rate)
            rows = list(sonifier.layers(waveform))
            names = each_map_once(rows, asked.tap) if asked.layers is None else asked.layers
            maps = sonifier.all_maps(waveform, layers=names, tap=asked.tap)
            full = [found.layer for found in maps]
            check_different(full, names)
            one_by_one = BatchedMaps(sonifier.forward_pass, full, asked.tap).why_one_by_one
            return maps, rows, one_by_one(waveform)
        # A wrong layer or a broken model is no fault of the clip: those errors go on to the user.
        except (FileError, InputError) as error:
            reasons.append(error)
    raise InputError(
        f"No clip could be used among the first {len(reasons)}: expected one that the model takes. "
        f"The first: {reasons[0]}"
    ) from reasons[0]


def _about(found: LayerMaps, kinds: dict[str, str]) -> dict[str, Any]:
    """What layers.json says of a layer."""
    field = found.field
    return {
        "layer": found.layer,
        "type": kinds.get(found.layer, ""),
        "channels": found.maps.shape[1],
        "hop": None if field is None else float(field.hop),
        "receptive_field": None if field is None else field.size,
    }
