"""The live view in notebooks: its messages without a browser, and the view in one."""

import base64
import io
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from browser import chromium, needs_browser, opened
from torch import nn

from deconv1d import DependencyError, Sonifier
from deconv1d.explore import explore_widget, widget

RATE = 8000


@pytest.fixture
def sonifier():
    torch.manual_seed(0)
    return Sonifier(nn.Sequential(nn.Conv1d(1, 4, 33), nn.ReLU()), sample_rate=RATE)


def sound_file() -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    soundfile.write(content, noise, RATE, format="WAV")
    return content.getvalue()


class Asking:
    """What a browser's side of the widget does: sends words, and gets an answer."""

    def __init__(self, view, monkeypatch):
        self.view, self.answers = view, []
        monkeypatch.setattr(
            view, "send", lambda content, buffers=None: self.answers.append(content)
        )

    def __call__(self, content, *buffers):
        self.view._handle_custom_msg(content, list(buffers))
        return self.answers[-1]


@pytest.fixture
def ask(sonifier, monkeypatch):
    pytest.importorskip("anywidget")
    return Asking(explore_widget(sonifier), monkeypatch)


def test_a_clip_is_taken_and_a_channel_heard(ask):
    assert ask({"id": 1, "address": "start", "body": ""}) == {"id": 1, "facts": {}}
    clip = ask({"id": 2, "address": "clip", "body": ""}, sound_file())["facts"]
    assert [len(layer["activations"]) for layer in clip["layers"]] == [4]  # a block once
    words = {"clip": clip["clip"], "layer": clip["layers"][0]["name"], "channel": 2}
    body = json.dumps({**words, "method": "deconvnet", "contrast": True})
    answer = ask({"id": 3, "address": "sonify", "body": body})
    assert answer["id"] == 3
    assert [s["name"] for s in answer["facts"]["sounds"]] == ["input", "sonification", "residual"]


def test_a_widget_begins_with_a_clip(sonifier, tmp_path, monkeypatch):
    pytest.importorskip("anywidget")
    (tmp_path / "clip.wav").write_bytes(sound_file())
    ask = Asking(explore_widget(sonifier, tmp_path / "clip.wav"), monkeypatch)
    assert ask({"id": 0, "address": "start"})["facts"]["seconds"] == 1


@pytest.mark.parametrize(
    ("content", "buffers", "words"),
    [
        ({"id": 1, "address": "clip"}, [b"no sound"], "The clip"),
        ({"id": 1, "address": "clip"}, [], "expected one file"),
        ({"id": 1, "address": "clip"}, [bytes(widget.LARGEST_CLIP + 1)], "25 MiB at most"),
        ({"id": 1, "address": "sonify", "body": "{"}, [], ""),
        ({"id": 1, "address": "sonify", "body": None}, [], ""),
        ({"id": 1, "address": "../../etc/passwd"}, [], ""),
        ({"id": 1}, [], ""),
        (None, [], ""),
        ("rubbish", [], ""),
    ],
)
def test_rubbish_gets_a_message(ask, content, buffers, words):
    assert words in ask(content, *buffers)["message"]


def test_without_anywidget_the_extra_is_named(sonifier, monkeypatch):
    widget._widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(DependencyError, match=r"pip install 'deconv1d\[explore\]'"):
        explore_widget(sonifier)
    widget._widget_class.cache_clear()


PAGE = """<!doctype html><meta charset="utf-8"><title>notebook</title><button>outside</button>
<div id="one"></div><div id="two"></div><script>
const modelOf = (name) => {
  const heard = [];
  return {
    get: () => STYLE,
    on: (event, call) => heard.push(call),
    off: () => {},
    send: async (content, _, buffers) => {
      const bytes = buffers.length ? btoa(String.fromCharCode(...new Uint8Array(buffers[0]))) : "";
      const answer = await window.python(JSON.stringify(content), bytes);
      for (const call of heard) call(JSON.parse(answer));
    },
  };
};
const show = async () => {
  for (const name of ["one", "two"]) {
    const address = URL.createObjectURL(new Blob([SCRIPT], {type: "text/javascript"}));
    const view = (await import(address)).default, el = document.getElementById(name);
    view.render({model: modelOf(name), el});
  }
};
</script>"""


@needs_browser[0]
@needs_browser[1]
def test_the_view_plays_in_a_page(ask, tmp_path):
    """Two widgets in one page, whose style stays as it was."""

    def python(content, given):
        return json.dumps(ask(json.loads(content), *([base64.b64decode(given)] if given else [])))

    page_file, clip = tmp_path / "page.html", tmp_path / "clip.wav"
    texts = f"const SCRIPT = {json.dumps(widget.script())}, STYLE = {json.dumps(widget.style())};"
    page_file.write_text(PAGE.replace("<script>", f"<script>{texts}".replace("</s", "<\\/s"), 1))
    clip.write_bytes(sound_file())
    with chromium() as browser, opened(browser, page_file.as_uri()) as page:
        before = page.evaluate("getComputedStyle(document.querySelector('button')).borderRadius")
        page.expose_function("python", python)
        page.evaluate("show()")
        page.locator("#one input[type=file]").set_input_files(str(clip))
        page.wait_for_selector("#one .player.ready", timeout=60000)
        page.locator("#one .play").click()
        page.wait_for_function("deconv1d.current.audio.currentTime > 0.1", timeout=20000)
        page.keyboard.press("3")  # one listener for keys, though there are two widgets
        assert page.evaluate("deconv1d.current.sounds[deconv1d.current.chosen].name") == "residual"
        after = page.evaluate("getComputedStyle(document.querySelector('button')).borderRadius")
        assert after == before
        assert page.locator("#two .drop").count() == 1
