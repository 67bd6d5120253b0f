"""The top clips of every map: against a sort of all, whatever the order, the split or the break."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random
from torch import nn
from untouched import untouched

from deconv1d import (
    ChannelError,
    DependencyError,
    FileError,
    InputError,
    LayerError,
    ModelError,
    PathError,
    Sonifier,
)
from deconv1d.mining.mine import mine
from deconv1d.mining.mined import Mined, MinedRow

pytest.importorskip("pyarrow")


class Functional(nn.Module):
    """Its block ends in ops without modules, and a join writes into a map."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 3, 5, stride=2, padding=2)
        self.conv2 = nn.Conv1d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        kept = x
        x = F.relu_(self.conv2(x))
        x += kept
        return self.head(x.mean(-1))


LAYERS = ["conv1", "conv2", "head"]


@pytest.fixture(scope="module")
def sonifier():
    torch.manual_seed(0)
    return Sonifier(Functional().double())


def waveforms():
    """Of different lengths, two of them equal, and one silent."""
    found = {f"clip{n}": random(60 + 7 * n, seed=n) for n in range(9)}
    found["again"] = found["clip3"]
    found["silent"] = torch.zeros(80, dtype=torch.float64)
    return found


def score_of(map_, score):
    return float(map_.max() if score == "peak" else map_.mean())


def sorted_out(sonifier, clips, layer, k, score="peak", tap="block"):
    """The rows of a layer by a sort of all its clips, one channel at a time."""
    maps = {clip: sonifier.maps(x, layer=layer, tap=tap)[0] for clip, x in clips.items()}
    rows = []
    for channel in range(len(next(iter(maps.values())))):
        found = []
        for clip, map_ in maps.items():
            moments = map_[channel].reshape(-1).tolist()
            value = score_of(map_[channel].reshape(-1), score)
            found.append((-value, clip, moments.index(max(moments))))
        rows += [(layer, channel, n, *row) for n, row in enumerate(sorted(found)[:k])]
    return rows


def told(mined, layer):
    keys = [(r.layer, r.channel, r.rank, -r.value, r.clip, r.position) for r in mined.rows]
    return [key for key in keys if key[0] == layer]


@pytest.mark.parametrize("tap", ["block", "output"])
@pytest.mark.parametrize("score", ["peak", "mean"])
@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_rows_are_those_of_a_sort_of_all(sonifier, k, score, tap):
    clips = waveforms()
    mined = mine(sonifier, clips.items(), layers=LAYERS, k=k, score=score, tap=tap)
    for layer in LAYERS:
        assert told(mined, layer) == sorted_out(sonifier, clips, layer, k, score, tap)


def test_values_below_zero_are_ranked_too(sonifier):
    clips = waveforms()
    model = nn.Sequential(nn.Conv1d(1, 4, 3)).double()
    with torch.no_grad():
        model[0].bias -= 50
    mined = mine(Sonifier(model), clips.items(), layers=["0"])
    assert all(row.value < 0 for row in mined.rows)
    assert told(mined, "0") == sorted_out(Sonifier(model), clips, "0", 3)


def test_among_equals_the_smaller_id_and_the_first_moment_win():
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1)
    sound = torch.tensor([0.0, 2, 1, 2, 0], dtype=torch.float64)
    clips = [(clip, sound) for clip in ("b", "a10", "a9", "ä", "B")]
    mined = mine(Sonifier(model), clips, layers=["0"], k=4)
    assert [(row.clip, row.position) for row in mined.rows] == [
        ("B", 1),
        ("a10", 1),
        ("a9", 1),
        ("b", 1),
    ]


def test_every_layer_of_cnn12_is_as_by_itself():
    from reference_models.cnn12 import CNN12

    torch.manual_seed(1)
    sonifier = Sonifier(CNN12(width=1 / 8))
    clips = {f"{n}": random(2800 + 300 * n, seed=n, dtype=torch.float32) for n in range(4)}
    layers = [f"features.conv{n}" for n in range(1, 12)] + ["fc1.fc10"]
    mined = mine(sonifier, clips.items(), layers=layers, k=2)
    for layer in layers:
        assert told(mined, layer) == sorted_out(sonifier, clips, layer, 2)


def test_one_pass_gives_the_maps_that_each_layer_gives_by_itself(sonifier):
    x = random(2, 1, 90)
    for tap in ("block", "output"):
        together = sonifier.all_maps(x, layers=LAYERS, tap=tap)
        for layer, found in zip(LAYERS, together, strict=True):
            assert torch.equal(found.maps, sonifier.maps(x, layer=layer, tap=tap))
            sonification = sonifier.sonify(x, layer=layer, channel=0, tap=tap)
            assert torch.equal(found.maps, sonification.activation)


def test_one_pass_a_clip_hears_all_layers(sonifier, monkeypatch):
    passes = []
    forward = sonifier.model.forward
    monkeypatch.setattr(sonifier.model, "forward", lambda x: (passes.append(1), forward(x))[1])
    mine(sonifier, waveforms().items(), layers=LAYERS)
    assert len(passes) == len(waveforms())


def test_the_model_is_stopped_behind_the_last_layer_that_is_given_by_its_call(
    sonifier, monkeypatch
):
    reached, forward = [], sonifier.model.head.forward
    monkeypatch.setattr(
        sonifier.model.head, "forward", lambda x: (reached.append(1), forward(x))[1]
    )
    mine(sonifier, [(f"{n}", random(91, seed=n)) for n in range(5)], layers=["conv2#1", "conv1#1"])
    assert reached == []  # else the layers' calls are counted to the end


class Chooses(nn.Module):
    """Runs its second layer for loud sounds only, and lets go of the signal in its third."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv1d(1, 1, 3) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        x = self.second(x) if x.abs().max() > 1 else x.relu()
        return self.third((x > 0).to(x.dtype))


def test_a_layer_that_does_not_run_or_carries_nothing_is_named():
    sonifier = Sonifier(Chooses().double())
    loud, soft = ("loud", 100 * random(30)), ("soft", 0.01 * random(30))
    assert mine(sonifier, [loud], layers=["first", "second"]).clips == ("loud",)
    with pytest.raises(LayerError, match="Layer 'second' never ran"):
        mine(sonifier, [loud, soft], layers=["first", "second"])
    with pytest.raises(PathError, match="No signal can be carried from layer 'third'"):
        mine(sonifier, [loud], layers=["first", "third"])


class WritesUnseen(nn.Module):
    """Doubles a map by way of NumPy, which no record of torch's ops can show."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)

    def forward(self, x):
        y = self.conv(x)
        y.numpy()[...] *= 2
        return y.relu()


def test_captures_are_verified_if_asked():
    mine(Sonifier(Functional().double(), verify="always"), waveforms().items(), layers=LAYERS)
    sonifier = Sonifier(WritesUnseen().double(), verify="always")
    with pytest.raises(ModelError):
        mine(sonifier, waveforms().items(), layers=["conv"])


def test_the_window_holds_the_samples_that_the_moment_reads(sonifier):
    clips = waveforms()
    for row in mine(sonifier, clips.items(), layers=["conv1", "conv2"], k=2).rows:
        x = clips[row.clip].clone()
        outside = torch.ones(len(x), dtype=torch.bool)
        outside[row.start_sample : row.end_sample] = False
        x[outside] = random(len(x), seed=5)[outside]
        map_ = sonifier.maps(x, layer=row.layer)[0, row.channel]
        assert float(map_[row.position]) == pytest.approx(row.value, abs=1e-12)
        assert row.end_sample - row.start_sample <= 23


def test_a_map_without_time_reads_the_whole_clip(sonifier):
    clips = waveforms()
    for row in mine(sonifier, clips.items(), layers=["head"]).rows:
        assert (row.position, row.start_sample) == (0, 0)
        assert row.end_sample == len(clips[row.clip])


def test_channels_may_be_the_last_axis_and_time_one_of_two():
    frames = nn.Sequential(nn.Conv2d(1, 3, (5, 1)), nn.ReLU()).double()
    sonifier = Sonifier(frames, forward=lambda model, x: model(x[..., None].expand(-1, -1, -1, 2)))
    clips = {f"{n}": random(1, 1, 40, seed=n) for n in range(4)}
    for row in mine(sonifier, clips.items(), layers=["0"]).rows:
        map_ = sonifier.maps(clips[row.clip], layer="0")[0, row.channel]
        assert map_[row.position].max() == row.value == map_.max()
        assert (row.start_sample, row.end_sample) == (row.position, row.position + 5)


# --- parts --------------------------------------------------------------------------------------


def mined_of(sonifier, clips):
    return mine(sonifier, clips, layers=LAYERS, k=2)


@pytest.fixture(scope="module")
def singles(sonifier):
    """Every clip mined alone: merging starts from these."""
    return [mined_of(sonifier, [pair]) for pair in waveforms().items()]


def content(mined, folder):
    mined.save(folder / "mined.parquet")
    return (folder / "mined.parquet").read_bytes()


@pytest.fixture(scope="module")
def whole(sonifier, tmp_path_factory):
    return content(mined_of(sonifier, waveforms().items()), tmp_path_factory.mktemp("whole"))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_parts_merge_to_the_whole_however_they_are_cut(singles, whole, tmp_path_factory, data):
    parts = data.draw(st.permutations(singles))
    while len(parts) > 1:
        place = data.draw(st.integers(0, len(parts) - 2))
        parts[place : place + 2] = [parts[place].merged(parts[place + 1])]
    assert content(parts[0], tmp_path_factory.mktemp("parts")) == whole


def test_the_order_of_the_clips_does_not_matter(sonifier, whole, tmp_path):
    for turned in (reversed(waveforms().items()), sorted(waveforms().items())):
        assert content(mined_of(sonifier, turned), tmp_path) == whole


def test_what_cannot_be_merged_says_so(sonifier, singles):
    with pytest.raises(InputError, match="without a clip in common, got 1 such as 'clip0'"):
        singles[0].merged(singles[0])
    other = mine(sonifier, [("x", random(60))], layers=LAYERS, k=3)
    with pytest.raises(InputError, match="equal settings, got k 2 and 3"):
        singles[0].merged(other)


# --- the file -----------------------------------------------------------------------------------


def test_a_file_holds_all_that_was_mined(sonifier, tmp_path):
    path = tmp_path / "mined.parquet"
    clips = {**waveforms(), "short": random(1)}
    mined = mine(sonifier, clips.items(), layers=LAYERS, path=path, skip_unusable=True)
    read = Mined.read(path)
    assert read.rows.rows == mined.rows.rows
    assert (read.settings, read.clips, read.clips_hash) == (
        mined.settings,
        mined.clips,
        mined.clips_hash,
    )
    assert read.top("conv2", 1).rows == mined.top("conv2", 1).rows
    assert list(tmp_path.iterdir()) == [path]
    assert content(read, tmp_path) == content(mined, tmp_path)


def test_the_file_is_a_plain_table(sonifier, tmp_path):
    from pyarrow import parquet

    path = tmp_path / "mined.parquet"
    mined = mine(sonifier, waveforms().items(), layers=LAYERS, path=path)
    rows = parquet.read_table(path).to_pylist()
    assert [MinedRow(**row) for row in rows] == list(mined.rows)


def test_a_file_that_is_none_of_ours_is_named(tmp_path):
    from pyarrow import parquet, table

    parquet.write_table(table({"id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    for name in ("other.parquet", "cut.parquet", "missing.parquet"):
        with pytest.raises(FileError, match=name):
            Mined.read(tmp_path / name)


def test_without_pyarrow_the_error_names_the_command(sonifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DependencyError, match=r"pip install 'deconv1d\[reference\]'"):
        mine(sonifier, broken_after(0), layers=LAYERS, path=tmp_path / "mined.parquet")
    assert len(mine(sonifier, waveforms().items(), layers=LAYERS).clips) == len(waveforms())


# --- a break ------------------------------------------------------------------------------------


def broken_after(count):
    for place, pair in enumerate(waveforms().items()):
        if place == count:
            raise KeyboardInterrupt
        yield pair


@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_a_run_that_is_broken_off_goes_on_to_the_same_file(sonifier, whole, tmp_path, count):
    path = tmp_path / "mined.parquet"
    options = {"layers": LAYERS, "k": 2, "path": path, "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        mine(sonifier, broken_after(count), **options)
    assert not path.exists()
    mine(sonifier, waveforms().items(), **options)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_heard_before_the_break_is_not_heard_again(sonifier, tmp_path, monkeypatch):
    options = {"layers": LAYERS, "path": tmp_path / "mined.parquet", "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        mine(sonifier, broken_after(6), **options)
    passes, forward = [], sonifier.model.forward
    monkeypatch.setattr(sonifier.model, "forward", lambda x: (passes.append(1), forward(x))[1])
    mine(sonifier, waveforms().items(), **options)
    assert len(passes) == len(waveforms()) - 6 + 1  # the first again, for the layers' names


KILLED = """
import os, signal, sys
from test_mine import LAYERS, Functional, waveforms
import torch
from deconv1d import Sonifier
from deconv1d.mining.mine import mine

def clips():
    for place, pair in enumerate(waveforms().items()):
        if place == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        yield pair

torch.manual_seed(0)
sonifier = Sonifier(Functional().double())
mine(sonifier, clips(), layers=LAYERS, k=2, path=sys.argv[1], save_seconds=0)
"""


def test_a_killed_run_goes_on_to_the_same_file(sonifier, whole, tmp_path):
    path, here = tmp_path / "mined.parquet", Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run([sys.executable, "-c", KILLED, path], env=environment, timeout=600)
    assert done.returncode == -signal.SIGKILL
    assert len(Mined.read(f"{path}.part").clips) == 7
    mine(sonifier, waveforms().items(), layers=LAYERS, k=2, path=path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["k", "score", "layers", "weights", "clips"])
def test_an_unfinished_file_of_something_else_is_refused(sonifier, tmp_path, change):
    options = {"layers": LAYERS, "path": tmp_path / "mined.parquet", "save_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        mine(sonifier, broken_after(4), **options)
    clips = waveforms()
    if change == "weights":
        sonifier = Sonifier(Functional().double())
    if change == "clips":
        del clips["clip2"]
    options |= {"k": {"k": 2}, "score": {"score": "mean"}, "layers": {"layers": ["conv1"]}}.get(
        change, {}
    )
    with pytest.raises(InputError, match=r"unfinished file .* delete the file that ends in .part"):
        mine(sonifier, clips.items(), **options)


# --- bad input ----------------------------------------------------------------------------------


def test_a_clip_that_cannot_be_used_raises_or_is_noted(sonifier):
    bad = {"short": random(1), "broken": torch.full((80,), torch.nan), "several": random(2, 1, 80)}
    for clip, x in bad.items():
        with pytest.raises(InputError, match=f"Clip '{clip}' cannot be used. The waveform "):
            mine(sonifier, [("clip0", random(60)), (clip, x)], layers=LAYERS)
    pairs = [*bad.items(), *waveforms().items()]
    mined = mine(sonifier, pairs, layers=LAYERS, skip_unusable=True)
    assert list(mined.skipped) == ["broken", "several", "short"]
    assert "11 clips by peak, 3 skipped" in str(mined)
    assert mined.rows.rows == mine(sonifier, waveforms().items(), layers=LAYERS).rows.rows


def test_maps_that_are_not_finite_raise_also_when_clips_may_be_skipped():
    model = nn.Sequential(nn.Conv1d(1, 2, 3))
    with torch.no_grad():
        model[0].weight.fill_(torch.inf)
    with pytest.raises(ModelError, match=r"Clip .a. cannot be used. The map of .* NaN"):
        mine(Sonifier(model), [("a", torch.randn(9))], layers=["0"], skip_unusable=True)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "No clip could be used: expected at least one, got 0"),
        (
            [("a", random(1))],
            "got 1, of which 1 were skipped. The first: The waveform is too short",
        ),
        ([("a", random(60)), ("a", random(60))], "Clip 'a' is given twice"),
        ([(3, random(60))], "expected a string, got a int"),
    ],
)
def test_clips_that_are_none(sonifier, clips, message):
    with pytest.raises(InputError, match=message):
        mine(sonifier, clips, layers=LAYERS, skip_unusable=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": "conv1"}, InputError, "expected a list of one or more names, got 'conv1'"),
        ({"layers": []}, InputError, "expected a list of one or more names"),
        ({"layers": ["conv1", "conv1"]}, LayerError, "'conv1' is asked for twice"),
        ({"layers": ["conv9"]}, LayerError, "No layer 'conv9'"),
        ({"layers": LAYERS, "k": 0}, InputError, "k=0 cannot be used"),
        ({"layers": LAYERS, "k": 1.5}, InputError, "k=1.5 cannot be used"),
        ({"layers": LAYERS, "score": "best"}, InputError, "Unknown score 'best'"),
        ({"layers": LAYERS, "tap": "top"}, InputError, "Unknown tap 'top'"),
    ],
)
def test_arguments_that_are_none(sonifier, options, error, message):
    with pytest.raises(error, match=message):
        mine(sonifier, waveforms().items(), skip_unusable=True, **options)


def test_top_names_what_there_is(singles):
    mined = reduce(Mined.merged, singles)
    assert [row.rank for row in mined.top("conv1", 2)] == [0, 1]
    with pytest.raises(LayerError, match="'fc' was not mined: expected one of 'conv1', 'conv2'"):
        mined.top("fc", 0)
    with pytest.raises(ChannelError, match="Channel 3 is out of range in layer 'conv1'"):
        mined.top("conv1", 3)


def test_the_model_is_left_as_it_was(sonifier):
    sonifier.model.train()
    with untouched(sonifier.model):
        mine(sonifier, waveforms().items(), layers=LAYERS)
    with untouched(sonifier.model), pytest.raises(InputError):
        mine(sonifier, [("a", random(60)), ("b", random(1))], layers=LAYERS)


# --- going on from a file that fits, and from no other -------------------------------------------


class Interrupted(Exception):
    pass


def until(clips, count):
    """The first clips, then a break."""
    yield from list(clips.items())[:count]
    raise Interrupted


def begun(sonifier, clips, path):
    with pytest.raises(Interrupted):
        mine(sonifier, until(clips, 4), layers=["conv1"], path=path, save_seconds=0)
    return Path(f"{path}.part")


def test_audio_that_changed_under_the_same_id_is_not_mixed_in(sonifier, tmp_path):
    clips = waveforms()
    begun(sonifier, clips, tmp_path / "top.parquet")
    clips["clip2"] = 2 * clips["clip2"]
    with pytest.raises(InputError, match="'clip2' has changed"):
        mine(sonifier, clips.items(), layers=["conv1"], path=tmp_path / "top.parquet")


class Otherwise(Functional):
    """The same weights by the same names, another activation."""

    def forward(self, x):
        x = F.max_pool1d(F.silu(self.conv1(x)), 2)
        return self.head(self.conv2(x).mean(-1))


def strided():
    model = Functional().double()
    model.conv1.stride = (1,)
    return model


@pytest.mark.parametrize("other", [lambda: Otherwise().double(), strided])
def test_a_model_of_equal_weights_and_other_structure_does_not_go_on(sonifier, tmp_path, other):
    begun(sonifier, waveforms(), tmp_path / "top.parquet")
    model = other()
    model.load_state_dict(sonifier.model.state_dict())
    with pytest.raises(InputError, match="cannot be gone on with"):
        mine(Sonifier(model), waveforms().items(), layers=["conv1"], path=tmp_path / "top.parquet")


def test_a_damaged_file_is_noticed(sonifier, tmp_path):
    path = tmp_path / "top.parquet"
    mine(sonifier, waveforms().items(), layers=["conv1"], path=path)
    whole, read = path.read_bytes(), Mined.read(path)
    for place in range(0, len(whole), 97):
        flipped = bytearray(whole)
        flipped[place] ^= 8
        path.write_bytes(bytes(flipped))
        try:
            again = Mined.read(path)
        except FileError:
            continue
        assert list(again.rows) == list(read.rows)  # padding, or a field that nobody reads
        assert again.settings == read.settings
        assert again.clips == read.clips


@pytest.mark.parametrize("column", ["clip", "position", "value"])
def test_a_file_without_a_column_is_noticed(sonifier, tmp_path, column):
    import pyarrow.parquet as parquet

    path = tmp_path / "top.parquet"
    mine(sonifier, waveforms().items(), layers=["conv1"], path=path)
    parquet.write_table(parquet.read_table(path).drop_columns([column]), path)
    with pytest.raises(FileError, match="cannot be read"):
        Mined.read(path)


# Names of files that are no UTF-8, as os.fsdecode gives them; halves of a character; and what each
# would be taken for if its halves were put together, or its bytes read as UTF-8.
NO_TEXT = [
    os.fsdecode(b"caf\xe9.wav"),
    "\ud800",
    "\udfff/a",
    "\ud83d\ude00",
    "\U0001f600",
    "\udcc3\udca9",
    "\xe9",
]


def test_names_that_are_no_utf8_are_ids(sonifier, tmp_path):
    path = tmp_path / "top.parquet"
    clips = {name: random(70, seed=n) for n, name in enumerate(NO_TEXT)}
    found = mine(sonifier, clips.items(), layers=["conv1"], k=9, path=path)
    assert {row.clip for row in found.rows} == set(NO_TEXT)
    again = Mined.read(path)
    assert again.clips == found.clips == tuple(sorted(NO_TEXT))
    assert again.contents == found.contents
    assert list(again.rows) == list(found.rows)
    assert again.clips_hash == found.clips_hash
    again.save(tmp_path / "copy.parquet")
    assert (tmp_path / "copy.parquet").read_bytes() == path.read_bytes()
    for told in (str(found.rows), repr(found.top("conv1", 0)), found.rows._repr_html_()):
        assert "caf\\udce9.wav" in told
        told.encode()


def test_a_broken_off_run_over_names_that_are_no_utf8_goes_on(sonifier, tmp_path):
    clips = [(name, random(70, seed=n)) for n, name in enumerate(NO_TEXT)]
    options = {"layers": ["conv1"], "save_seconds": 0, "skip_unusable": True}

    def broken():
        yield "\udcff, too short", random(1)
        yield from clips[:4]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mine(sonifier, broken(), path=tmp_path / "a.parquet", **options)
    assert (tmp_path / "a.parquet.part").exists()
    given = [("\udcff, too short", random(1)), *clips]
    found = mine(sonifier, given, path=tmp_path / "a.parquet", **options)
    mine(sonifier, given, path=tmp_path / "b.parquet", **options)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert list(found.skipped) == ["\udcff, too short"]


def test_ids_that_differ_in_their_bytes_have_hashes_that_differ(sonifier):
    def hash_of(*names):
        return mine(sonifier, [(n, random(70)) for n in names], layers=["conv1"]).clips_hash

    assert len({hash_of(name) for name in NO_TEXT}) == len(NO_TEXT)


def test_names_of_layers_and_weights_that_are_no_utf8_are_kept(tmp_path):
    model = nn.Sequential()
    model.add_module("\udcff", nn.Conv1d(1, 2, 3))
    model.register_parameter("\ud800", nn.Parameter(torch.zeros(1)))
    found = mine(Sonifier(model), [("a", random(70).float())], layers=["\udcff"])
    found.save(tmp_path / "top.parquet")
    again = Mined.read(tmp_path / "top.parquet")
    assert again.settings == found.settings
    assert list(again.top("\udcff", 1)) == list(found.top("\udcff", 1))
