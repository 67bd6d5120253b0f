"""A waveform is tried in the shapes that a model may take, and the right error is raised."""

import pytest
import torch

from deconv1d import InputError
from deconv1d.record.waveform import as_waveform, shortest


def takes_rank(rank):
    def model(x):
        if x.dim() != rank:
            raise RuntimeError(f"rank {x.dim()}")
        return tuple(x.shape)

    return model


@pytest.mark.parametrize(("rank", "shape"), [(3, (1, 1, 7)), (2, (1, 7))])
def test_a_mono_clip_runs_in_the_shape_that_the_model_takes(rank, shape):
    assert as_waveform(torch.zeros(7)).run(takes_rank(rank)) == shape


def test_of_several_failures_the_first_is_raised():
    with pytest.raises(RuntimeError, match="rank 3"):
        as_waveform(torch.zeros(7)).run(takes_rank(4))


def test_an_error_of_ours_is_raised_at_once():
    tried = []

    def refuses(x):
        tried.append(x.dim())
        raise InputError("no such layer")

    with pytest.raises(InputError, match="no such layer"):
        as_waveform(torch.zeros(7)).run(refuses)
    assert tried == [3]


def test_a_batch_is_tried_as_it_is_first():
    assert as_waveform(torch.zeros(3, 7)).run(takes_rank(2)) == (3, 7)


def test_what_the_model_does_not_decide_is_an_error():
    with pytest.raises(InputError, match=r"x\.reshape\(1, 3, 7\)"):
        as_waveform(torch.zeros(3, 7)).run(takes_rank(3))


@pytest.mark.parametrize("needed", [2, 3, 17, 64, 1000])
def test_the_fewest_samples_are_found(needed):
    assert shortest(lambda samples: samples >= needed, 1) == needed


def test_where_more_samples_do_not_help_the_search_ends():
    assert shortest(lambda samples: False, 1) is None
