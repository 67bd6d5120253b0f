"""The networks that ship do on recordings what their cards say."""

import json
from pathlib import Path

import pytest
import torch

import reference_models
from deconv1d.audio import read_audio
from reference_models.cnn12 import arabic, demo

WEIGHTS = Path(reference_models.__file__).parent / "weights"


def test_the_classifier_names_arabic_words(recordings):
    folder = recordings / "arabic_commands"
    listed = (folder / "testing_list.txt").read_text().split()[::12]
    assert len(listed) == 150
    classes = json.loads((WEIGHTS / "cnn12-w8-arabic-supervised.json").read_text())["classes"]
    heard = torch.stack([torch.from_numpy(read_audio(folder / name, 8000)[0]) for name in listed])
    heard /= heard.abs().amax(-1, keepdim=True)  # as the training's cache does
    with torch.inference_mode():
        named = arabic("supervised")(heard[:, None]).argmax(-1)
    right = sum(
        classes[number] == name.partition("/")[0]
        for number, name in zip(named.tolist(), listed, strict=True)
    )
    assert right / len(listed) > 0.85  # 0.918 of all 1,800


def test_the_contrastive_encoder_is_the_demos():
    x = torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = arabic("contrastive")(x), demo(regime="contrastive")(x)
    assert torch.equal(one, other)
    assert arabic()(x).shape == (1, 30)  # as `--model reference_models.cnn12:arabic` calls it
    assert one.abs().sum() > 0


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_each_has_a_card_and_all_are_small(path):
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["settings"]["width"] == 1 / 8
    assert sum(each.stat().st_size for each in WEIGHTS.iterdir()) < 3 * 2**20


@pytest.mark.parametrize("regime", ["contrastive", "supervised"])
def test_a_card_has_untrained_encoders_beside_each_figure(regime):
    card = json.loads((WEIGHTS / f"cnn12-w8-arabic-{regime}.json").read_text())
    for data in ("audioset", "words"):  # what it was trained on, and words of another language
        for figure in card["figures"][data].values():
            assert len(figure["untrained"]) == 5
            assert figure["trained"] > max(figure["untrained"]) + 0.1
