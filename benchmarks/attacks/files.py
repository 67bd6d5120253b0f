"""What stands in the place of an output file, runs that are killed, and files that are damaged."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from deconv1d import Sonifier
from deconv1d.audio import write_audio
from deconv1d.cli import main
from deconv1d.errors import FileError, InputError
from deconv1d.mining import mine
from deconv1d.render import plot_spectrograms, save_figure
from deconv1d.report import MADE_BY, PAGE, whole_folder

from .attack import Check, noise

OUTPUT = "output files"
DAMAGED = "damaged and changed files"
RATE = 8000
PATIENCE = 20
"""Seconds to wait for who reads from a pipe."""


def network(stride: int = 1) -> nn.Module:
    """One convolution; `python -m deconv1d` opens it by this name."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 4, 9, stride), nn.ReLU()).eval()


X = noise(1500, dtype=torch.float32) * 0.1


def _by_command(command: str, *more: str) -> Callable[[Path], None]:
    clip = Path(tempfile.gettempdir()) / f"deconv1d-clip-{os.getpid()}.wav"

    def write(path: Path) -> None:
        if not clip.exists():
            soundfile.write(clip, X.numpy(), RATE)
        model = ["--model", "benchmarks.attacks.files:network", "--sample-rate", str(RATE)]
        asked = ["--layer", "0", "--channel", "1", *more, "-o", str(path)]
        with redirect_stdout(io.StringIO()):
            code = main([command, str(clip), *model, *asked])
        if code:
            raise FileError(f"exit code {code}")

    return write


def _sonification(path: Path) -> None:
    Sonifier(network(), sample_rate=RATE).sonify(X, layer="0", channel=1).save(path)


def _stream(path: Path) -> None:
    Sonifier(network(), sample_rate=RATE).stream([X.numpy()], out=path, layer="0", channel=1)


def _mined(path: Path) -> None:
    mine(Sonifier(network()), [("a", X), ("b", X.flip(0))], layers=["0"]).save(path)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "write_audio": (".wav", lambda path: write_audio(path, X, RATE)),
    "write_audio to FLAC": (".flac", lambda path: write_audio(path, X, RATE)),
    "write_audio to Ogg": (".ogg", lambda path: write_audio(path, X, RATE)),
    "Sonification.save": (".wav", _sonification),
    "Sonifier.stream": (".wav", _stream),
    "save_figure": (
        ".png",
        lambda path: save_figure(plot_spectrograms({"a": X}, RATE), path),
    ),
    "Mined.save": (".parquet", _mined),
    "deconv1d sonify": (".wav", _by_command("sonify")),
    "deconv1d card": (".html", _by_command("card")),
}


def _whole(path: Path) -> None:
    assert len(path.read_bytes()) > 500
    left = [name for name in os.listdir(path.parent) if name.endswith(".part")]
    assert left == [], left


def _private(path: Path, write: Callable[[Path], None]) -> None:
    path.write_bytes(b"old")
    path.chmod(0o600)
    seen = []
    before = os.replace

    def replace(source: Any, target: Any) -> None:
        seen.append(os.stat(source).st_mode & 0o777)
        before(source, target)

    os.replace = replace  # type: ignore[assignment]  # put back below
    try:
        write(path)
    finally:
        os.replace = before
    assert path.stat().st_mode & 0o777 == 0o600
    assert seen == [0o600]
    _whole(path)


def _link(path: Path, write: Callable[[Path], None]) -> None:
    (path.parent / "elsewhere").mkdir()
    file, chain = path.parent / "elsewhere" / f"file{path.suffix}", path.with_name("chain")
    file.write_bytes(b"old")
    chain.symlink_to(file)
    path.symlink_to(chain)
    write(path)
    assert path.is_symlink()
    assert chain.is_symlink()
    _whole(file)


def _broken_link(path: Path, write: Callable[[Path], None]) -> None:
    file = path.with_name(f"file{path.suffix}")
    path.symlink_to(file.name)
    write(path)
    assert path.is_symlink()
    _whole(file)


def _pipe(path: Path, write: Callable[[Path], None]) -> None:
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    write(path)
    reader.join(PATIENCE)
    assert path.is_fifo()
    assert found, "nothing came through the pipe"
    assert len(found[0]) > 500


def _device(path: Path, write: Callable[[Path], None]) -> None:
    path.symlink_to("/dev/null")
    write(path)
    assert path.is_symlink()
    assert Path("/dev/null").is_char_device()


PLACES = {
    "a private file": _private,
    "a link to a link": _link,
    "a link to nothing": _broken_link,
    "a pipe": _pipe,
    "a device": _device,
}


def _write_to(
    suffix: str,
    write: Callable[[Path], None],
    place: Callable[[Path, Callable[[Path], None]], None],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place(Path(folder) / f"out{suffix}", write)


class _Broken(Exception):
    """Ends a run in the middle."""


# --- killed ------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from deconv1d.report import MADE_BY, PAGE, whole_folder
replace, left = os.replace, [int(sys.argv[2])]
def die(*names):
    if left[0] == 0:
        os._exit(9)
    left[0] -= 1
    replace(*names)
os.replace = die
with whole_folder(sys.argv[1], names=[PAGE]) as folder:
    (folder / PAGE).write_text(MADE_BY + "new")
"""


def _killed_folder(renames: int) -> None:
    """A page is there after the next run, whichever rename was the last of the killed one."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer) / "page"
        with whole_folder(folder, names=[PAGE]) as part:
            (part / PAGE).write_text(MADE_BY + "old")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(renames)])
        assert killed.returncode == (9 if renames < 2 else 0)
        try:
            with whole_folder(folder, names=[PAGE]):
                found = (folder / PAGE).read_text()
                raise _Broken
        except _Broken:
            pass
        assert found == MADE_BY + ("new" if renames == 2 else "old")
        assert (folder / PAGE).read_text() == found


# --- mining goes on ----------------------------------------------------------------------------


CLIPS = [(f"clip{n}", noise(900, seed=n, dtype=torch.float32)) for n in range(4)]


def _mine(path: Path, clips: Any, model: nn.Module | None = None, **options: Any) -> Any:
    sonifier = Sonifier(model or network())
    return mine(sonifier, clips, layers=["0"], path=path, save_seconds=0, **options)


def _half(path: Path, clips: Any = None) -> Path:
    """A run that is broken off after two clips; the file that it leaves."""

    def broken() -> Any:
        yield from (clips or CLIPS)[:2]
        raise _Broken

    with suppress(_Broken):
        _mine(path, broken())
    return Path(f"{path}.part")


def _goes_on(path: Path) -> None:
    _half(path)
    whole = path.with_name("whole.parquet")
    _mine(path, CLIPS)
    _mine(whole, CLIPS)
    assert path.read_bytes() == whole.read_bytes()


def _refuses(path: Path, clips: Any, model: nn.Module | None = None) -> None:
    """An error of ours, and no result."""
    try:
        _mine(path, clips, model)
    except (InputError, FileError):
        assert not path.exists()
        return
    raise AssertionError("it went on without a word")


def _changed_audio(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        _half(path)
        (name, waveform), *rest = CLIPS
        _refuses(path, [(name, change(waveform)), *rest])

    return run


def _changed_model(build: Callable[[], nn.Module]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        _half(path)
        _refuses(path, CLIPS, build())

    return run


def _damaged(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        part = _half(path)
        part.write_bytes(change(part.read_bytes()))
        _refuses(path, CLIPS)

    return run


def _flipped(path: Path) -> None:
    """Each 97th byte, flipped: the result is right, or there is an error."""
    whole = path.with_name("whole.parquet")
    _mine(whole, CLIPS)
    part = _half(path)
    content = part.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 40)):
        broken = bytearray(content)
        broken[place] ^= 0x10
        part.write_bytes(broken)
        try:
            _mine(path, CLIPS)
        except (InputError, FileError):
            continue
        assert path.read_bytes() == whole.read_bytes(), f"byte {place}"
        path.unlink()


def _odd_names(path: Path) -> None:
    names = ["\udcff\udcfe.wav", "\ud800", "\ud83d\ude00", "😀", "a\nb", "", "a\0b", "' OR 1"]
    clips = [(name, noise(900, seed=n, dtype=torch.float32)) for n, name in enumerate(names)]
    _half(path, clips)
    found = _mine(path, clips)
    assert set(found.clips) == set(names)
    assert list(type(found).read(path).top("0", channel=1)) == list(found.top("0", channel=1))


def _swapped_activation() -> nn.Module:
    model = network()
    model[1] = nn.LeakyReLU(0.3)  # type: ignore[operator]  # a Sequential
    return model


def _other_code() -> nn.Module:
    model = network()

    class Other(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(-1))

    return Other(*model).eval()  # type: ignore[misc]  # a Sequential


def _other_padding() -> nn.Module:
    model = network()
    model[0].padding = (3,)  # type: ignore[index]  # a Sequential
    return model


def _other_weights() -> nn.Module:
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0, 0] += 1e-6  # type: ignore[index]  # a Sequential
    return model


MINED: dict[str, Callable[[Path], None]] = {
    "a run that is broken off goes on": _goes_on,
    "audio that is scaled under its id": _changed_audio(lambda x: x * 1.0001),
    "audio that is shorter": _changed_audio(lambda x: x[:-1]),
    "audio that differs in one sample": _changed_audio(
        lambda x: x.index_fill(0, torch.tensor(7), 0)
    ),
    "audio in another precision": _changed_audio(lambda x: x.double() + 1e-12),
    "audio that is turned round": _changed_audio(lambda x: x.flip(0)),
    "another stride": _changed_model(lambda: network(2)),
    "another activation": _changed_model(_swapped_activation),
    "other code": _changed_model(_other_code),
    "another padding": _changed_model(_other_padding),
    "other weights": _changed_model(_other_weights),
    "an empty file": _damaged(lambda content: b""),
    "half a file": _damaged(lambda content: content[: len(content) // 2]),
    "another file": _damaged(lambda content: b"PAR1" + content[::-1]),
    "bytes behind the end": _damaged(lambda content: content + b"\0" * 40),
    "flipped bits": _flipped,
    "names that are no UTF-8": _odd_names,
}


def _in_a_folder(run: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "mined.parquet")


ATTACKS = [
    *(
        Check(OUTPUT, f"{name} onto {place}", lambda s=suffix, w=write, p=check: _write_to(s, w, p))
        for name, (suffix, write) in WRITERS.items()
        for place, check in PLACES.items()
    ),
    *(
        Check(OUTPUT, f"a page, killed before rename {n + 1}", lambda n=n: _killed_folder(n))
        for n in range(3)
    ),
    *(
        Check(DAMAGED, f"mine: {name}", lambda r=run: _in_a_folder(r))
        for name, run in MINED.items()
    ),
]
