"""What all tests of the command start from: a folder of its own, a clip in it, how it refuses."""

from functools import partial

import pytest
from command import check_refused, enter, sound, write


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with models; it is the current one."""
    enter(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def clip(folder):
    return write("clip.wav", sound(2400))


@pytest.fixture
def refused(capsys):
    return partial(check_refused, capsys)
