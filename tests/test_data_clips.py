"""A `ClipSet` gives the samples, crops and labels it promises."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reference_models.data import Clip, ClipIndex, ClipSet, build_cache

pytest.importorskip("pyarrow")

FRAMES = (1000, 5000, 900, 4400, 1000, 3000, 1000)  # of the usable clips
LABELS = ((0,), (1, 2), (2,), (0, 2), (1,), (0, 1, 2), (2,))
SPLITS = ("train", "val", "train", "test", "train", "test", "train")


def list_ramps(multilabel: bool) -> ClipIndex:
    """Seven clips to be, and a missing one between them."""
    clips = []
    for i, (frames, labels, split) in enumerate(zip(FRAMES, LABELS, SPLITS, strict=True)):
        labels = labels if multilabel else labels[:1]
        clips.append(Clip(f"clip{i}", str(frames), 0, 0, 0, labels, split, "unread"))
    clips.insert(2, Clip("gone", "", 0, 0, 0, (0,), "train", "missing"))
    return ClipIndex("ramps", ("a", "b", "c"), multilabel, tuple(clips))


def read_ramp(clip: Clip) -> np.ndarray:
    """1, 2, 3, ... so that every sample tells where in its clip it was."""
    return np.arange(1, int(clip.path) + 1)


def places(waveforms: torch.Tensor, numbers) -> torch.Tensor:
    """The ramp of `read_ramp` again (0 where padded) from waveforms scaled to unit peak."""
    frames = torch.tensor([FRAMES[i] for i in numbers])
    return (waveforms * frames[:, None, None]).round().long()


@pytest.fixture
def clips(tmp_path) -> ClipSet:
    with pytest.warns(UserWarning, match="7 of 8"):
        return build_cache(list_ramps(multilabel=True), tmp_path, read=read_ramp)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_waveforms_are_whole_clips(clips):
    assert len(clips) == 7
    assert clips.frames.tolist() == list(FRAMES)
    for i, frames in enumerate(FRAMES):
        waveform = clips.waveform(i)
        assert waveform.dtype == torch.float32
        assert torch.equal(places(waveform[None, None], [i])[0, 0], torch.arange(1, frames + 1))


def test_labels_are_multi_hot(clips):
    expected = torch.tensor(
        [[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1], [0, 0, 1]]
    )
    assert torch.equal(clips.labels(), expected.float())
    assert torch.equal(clips.labels(torch.tensor([5, 0])), expected[[5, 0]].float())


def test_labels_are_class_numbers_where_a_clip_has_one(tmp_path):
    with pytest.warns(UserWarning, match="7 of 8"):
        clips = build_cache(list_ramps(multilabel=False), tmp_path, read=read_ramp)
    assert torch.equal(clips.labels(), torch.tensor([0, 1, 2, 0, 1, 0, 2]))
    assert torch.equal(clips.labels([6, 1]), torch.tensor([2, 1]))


def test_crops_lie_anywhere_in_their_clip_and_nowhere_else(clips, generator):
    numbers = [1, 3] * 500
    crops = clips.crops(numbers, 1000, generator=generator)
    assert crops.shape == (1000, 1, 1000)
    ramps = places(crops, numbers)
    assert (ramps.diff() == 1).all()
    for which, frames in ((0, 5000), (1, 4400)):
        starts = ramps[which::2, 0, 0] - 1
        assert 0 <= starts.min() < 50
        assert frames - 1050 < starts.max() <= frames - 1000
        assert abs(starts.double().mean() / (frames - 1000) - 0.5) < 0.05


def test_crops_reach_the_first_and_the_last_sample(clips, generator):
    ramps = places(clips.crops([0] * 200, 999, generator=generator), [0] * 200)
    assert set(ramps[:, 0, 0].tolist()) == {1, 2}


def test_short_clips_are_padded_with_zeros_at_their_end(clips, generator):
    ramps = places(clips.crops([0, 2, 1], 1200, generator=generator), [0, 2, 1])
    for ramp, frames in ((ramps[0, 0], 1000), (ramps[1, 0], 900)):
        assert torch.equal(ramp[:frames], torch.arange(1, frames + 1))
        assert not ramp[frames:].any()
    assert ramps[2].all()


def test_the_generator_alone_decides(clips):
    def draw(seed: int) -> torch.Tensor:
        torch.rand(1)
        generator = torch.Generator().manual_seed(seed)
        pair = clips.two_crops([1, 3, 5], 800, gap=100, generator=generator)
        return torch.cat([clips.crops([1, 3, 5], 800, generator=generator), *pair])

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_two_crops_are_apart_in_both_orders_and_reach_both_ends(clips, generator):
    numbers = [1] * 2000
    one, two = clips.two_crops(numbers, 1000, gap=500, generator=generator)
    assert one.shape == two.shape == (2000, 1, 1000)
    starts = torch.stack([places(crop, numbers)[:, 0, 0] - 1 for crop in (one, two)])
    early, late = starts.min(dim=0).values, starts.max(dim=0).values
    assert (late - early >= 1500).all()
    assert (late - early).min() < 1550
    assert early.min() < 50
    assert 3950 < late.max() <= 4000
    assert 900 < (starts[0] < starts[1]).sum() < 1100


def test_two_crops_that_just_fit(clips, generator):
    one, two = clips.two_crops([0] * 50, 450, gap=100, generator=generator)
    starts = {int(places(crop, [0] * 50)[i, 0, 0]) for crop in (one, two) for i in range(50)}
    assert starts == {1, 551}


def test_two_crops_may_overlap_by_a_gap_below_zero(clips, generator):
    numbers = [0] * 2000  # 1,000 samples
    one, two = clips.two_crops(numbers, 600, gap=-550, generator=generator)
    starts = torch.stack([places(crop, numbers)[:, 0, 0] - 1 for crop in (one, two)])
    shift = (starts[0] - starts[1]).abs()
    assert 50 <= shift.min() < 55
    assert 380 < shift.max() <= 400
    assert starts.max() <= 400
    with pytest.raises(ValueError, match="gap of -601: expected at least -600"):
        clips.two_crops([0], 600, gap=-601, generator=generator)


def test_two_crops_of_a_short_clip_may_overlap_and_are_padded(clips, generator):
    numbers = [0] * 300
    one, two = clips.two_crops(numbers, 450, gap=101, generator=generator)
    starts = torch.stack([places(crop, numbers)[:, 0, 0] for crop in (one, two)])
    assert 1 <= starts.min() < 20
    assert 530 < starts.max() <= 551
    assert abs(np.corrcoef(starts.numpy())[0, 1]) < 0.2
    one, two = clips.two_crops([0], 1200, generator=generator)
    assert torch.equal(one, two)
    assert not one[..., 1000:].any()


def test_whole_clips_come_once_each_with_others_of_their_length(clips):
    batches = list(clips.whole(batch_size=2))
    assert [waveforms.shape for _, waveforms in batches] == [
        (1, 1, 900),
        (2, 1, 1000),
        (1, 1, 1000),
        (1, 1, 3000),
        (1, 1, 4400),
        (1, 1, 5000),
    ]
    assert sorted(i for numbers, _ in batches for i in numbers.tolist()) == list(range(7))
    for numbers, waveforms in batches:
        for i, waveform in zip(numbers.tolist(), waveforms, strict=True):
            assert torch.equal(waveform[0], clips.waveform(i))


def test_whole_clips_of_a_shard_of_the_set_padded_to_the_shortest_input(clips):
    batches = list(clips.whole([6, 2, 1], shortest=2000))
    assert [numbers.tolist() for numbers, _ in batches] == [[6, 2], [1]]
    waveforms = batches[0][1]
    assert waveforms.shape == (2, 1, 2000)
    assert torch.equal(waveforms[1, 0, :900], clips.waveform(2))
    assert not waveforms[1, 0, 900:].any()


def test_a_subset_is_its_splits(clips):
    assert clips.subset("train").ids == ["clip0", "clip2", "clip4", "clip6"]
    assert clips.subset("train", "val").ids == ["clip0", "clip1", "clip2", "clip4", "clip6"]
    test = clips.subset("test")
    assert torch.equal(test.waveform(1), clips.waveform(5))
    assert torch.equal(test.labels(), clips.labels([3, 5]))
    assert test.index.clip_hash != clips.index.clip_hash
    with pytest.raises(
        ValueError, match=r"no split 'dev'; expected one of .'test', 'train', 'val'"
    ):
        clips.subset("dev")


def test_the_hash_is_that_of_the_usable_ids(clips):
    index = clips.index
    shuffled = ClipIndex("other", ("x",), False, index.clips[::-1])
    without_missing = ClipIndex("other", ("x",), False, index.clips[:2] + index.clips[3:])
    fewer = ClipIndex(index.name, index.classes, True, index.clips[1:])
    assert shuffled.clip_hash == without_missing.clip_hash == index.clip_hash
    assert fewer.clip_hash != index.clip_hash
    assert index.summary() == {
        "name": "ramps",
        "classes": 3,
        "clips": 8,
        "clip_hash": index.clip_hash,
        "content_hash": index.content_hash,
        "splits": {"test": {"ok": 2}, "train": {"missing": 1, "ok": 4}, "val": {"ok": 1}},
    }


def test_the_hash_of_the_content_is_of_labels_and_splits_too(clips):
    index, ok = clips.index, [n for n, c in enumerate(clips.index.clips) if c.status == "ok"]
    shuffled = ClipIndex("other", ("x",), False, index.clips[::-1])
    assert shuffled.content_hash == index.content_hash
    for change in ({"split": "elsewhere"}, {"labels": (9,)}, {"id": "new"}):
        changed = list(index.clips)
        changed[ok[0]] = changed[ok[0]]._replace(**change)
        other = ClipIndex(index.name, index.classes, True, tuple(changed))
        assert other.content_hash != index.content_hash


def test_a_data_loader_with_workers_sees_the_same_clips(clips):
    clips.waveform(0)  # a memory map is open, which must not travel to the workers
    train = clips.subset("train")
    alike = torch.utils.data.Subset(train, [0, 2, 3])
    loader = DataLoader(alike, batch_size=3, num_workers=1, multiprocessing_context="fork")
    waveforms, labels = next(iter(loader))
    assert torch.equal(waveforms, torch.stack([train.waveform(i)[None] for i in (0, 2, 3)]))
    assert torch.equal(labels, train.labels([0, 2, 3]))
