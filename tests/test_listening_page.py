"""The listening test's page in a browser: it keeps answers, saves them, and knows no key."""

import json

import pytest
import torch

pytest.importorskip("pyarrow")

from browser import chromium, needs_browser, opened

from reference_models import listening_test
from reference_models.experiments.study import PRESETS, Study
from reference_models.listening_test import CELLS, answered, make

pytestmark = needs_browser


def test_the_page_saves_what_was_answered_and_does_not_know_the_key(
    recordings, monkeypatch, tmp_path
):
    study = Study(tmp_path, PRESETS["smoke"], {"esc10": recordings / "esc10"})
    paths = sorted(study.sources["esc10"].glob("*/*.ogg"))
    few = [path for path in paths if path.parent.name[:3] in ("001", "002")]
    monkeypatch.setattr(listening_test, "esc10_paths", lambda _: few)
    monkeypatch.setattr(listening_test, "heard", lambda *_: torch.randn(1, 1, 800) / 9)
    page_file = make(study, tmp_path / "one", listener=1)
    sounds = json.loads((tmp_path / "one" / "key.json").read_text())["sounds"]
    assert len(sounds) == 2 * len(CELLS)
    text = page_file.read_text()
    assert not any(word in text for word in ("contrastive", "deconvnet", sounds[0]["clip"]))
    kinds = sorted({sound["kind"] for sound in sounds})
    with chromium() as browser, opened(browser, page_file.as_uri()) as page:
        page.get_by_role("button", name=kinds[1]).click()
        page.keyboard.press("1")
        page.get_by_role("button", name="Back").click()
        page.keyboard.press("2")  # the second answer is changed
        page.reload()  # and kept
        assert page.get_by_role("status").inner_text() == f"Sound 3 of {len(sounds)}."
        for _ in sounds[2:]:
            page.keyboard.press("1")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save answers.json").click()
        download.value.save_as(tmp_path / "one" / "answers.json")
    found = list(answered([tmp_path / "one"]))
    said = [kinds[1], kinds[1], *[kinds[0]] * (len(sounds) - 2)]
    assert [right for _, right in found] == [
        answer == sound["kind"] for answer, sound in zip(said, sounds, strict=True)
    ]
