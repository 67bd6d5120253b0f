"""Checkpoints come back as they were saved, or say what is wrong with them."""

import json
import os

import pytest
import torch

pytest.importorskip("pyarrow")

from reference_models.checkpoint import (
    export_weights,
    load_checkpoint,
    load_classifier,
    load_encoder,
    save_checkpoint,
)
from reference_models.cnn12 import CNN12, classifier


def test_a_checkpoint_is_as_it_was_saved(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.tensor(7.0), "c": torch.arange(3).half()}
    about = {"classes": ["é", "b"], "settings": {"width": 0.125}}
    save_checkpoint(tmp_path / "w.safetensors", tensors, about)
    held, said = load_checkpoint(tmp_path / "w.safetensors")
    assert said == about == json.loads((tmp_path / "w.json").read_text())
    assert held.keys() == tensors.keys()
    assert all(torch.equal(held[k], v) and held[k].dtype == v.dtype for k, v in tensors.items())
    assert sorted(os.listdir(tmp_path)) == ["w.json", "w.safetensors"]


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_damaged_checkpoint_is_named(tmp_path, size):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, {"a": torch.randn(100)}, {"x": 1})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cannot load the checkpoint '.*w\.safetensors'.*delete"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        load_checkpoint(tmp_path / "gone.safetensors")


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, {"a": torch.zeros(2)}, {"step": 1})

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match=r"w\.safetensors.*No space"):
        save_checkpoint(path, {"a": torch.ones(2)}, {"step": 2})
    monkeypatch.undo()
    held, about = load_checkpoint(path)
    assert about == {"step": 1}
    assert not held["a"].any()
    assert sorted(os.listdir(tmp_path)) == ["w.json", "w.safetensors"]


def saved_classifier(path, classes=("a", "b", "c")):
    model = classifier(CNN12(width=1 / 64), classes=len(classes))
    about = {"classes": classes, "settings": {"width": 1 / 64}}
    save_checkpoint(path, model.state_dict(), about)
    return model


def test_weights_come_back(tmp_path):
    model = saved_classifier(tmp_path / "w.safetensors").eval()
    x = torch.randn(1, 1, 3000)
    loaded = load_classifier(tmp_path / "w.safetensors", classes=("a", "b", "c"))
    assert not loaded.training
    assert torch.equal(loaded(x), model(x))
    assert torch.equal(load_encoder(tmp_path / "w.safetensors", width=1 / 64)(x), model.encoder(x))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("a", "b"), "3 classes, expected 2; class 2 is 'c', expected None"),
        (("a", "c", "b"), "class 1 is 'b', expected 'c'"),
        (("a", "b", "c", "d"), "3 classes, expected 4; class 3 is None, expected 'd'"),
    ],
)
def test_weights_for_another_class_list(tmp_path, classes, message):
    saved_classifier(tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match=rf"w\.safetensors' is for another class list: .*{message}"
    ):
        load_classifier(tmp_path / "w.safetensors", classes=classes)


def test_weights_that_do_not_fit(tmp_path):
    saved_classifier(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"width 0\.015625, expected 1\.0.*--width 0\.015625"):
        load_encoder(tmp_path / "w.safetensors", width=1.0)
    tensors, about = load_checkpoint(tmp_path / "w.safetensors")
    del tensors["head.bias"]
    save_checkpoint(tmp_path / "v.safetensors", tensors, about)
    with pytest.raises(ValueError, match=r"v\.safetensors' does not hold.*head\.bias"):
        load_classifier(tmp_path / "v.safetensors")


def test_published_weights_are_halves_and_load_as_floats(tmp_path):
    model = saved_classifier(tmp_path / "w.safetensors").eval()
    export_weights(tmp_path / "w.safetensors", tmp_path / "p.safetensors", {"accuracy": 0.5})
    tensors, about = load_checkpoint(tmp_path / "p.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert about["accuracy"] == 0.5
    assert about["classes"] == ["a", "b", "c"]
    loaded, x = load_classifier(tmp_path / "p.safetensors"), torch.randn(1, 1, 3000)
    assert loaded.head.weight.dtype == torch.float32
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-2, atol=1e-2)
