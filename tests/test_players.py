"""What notebooks and pages play: sounds that browsers take, at any rate; names kept as text."""

import base64
import io
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn

from deconv1d import Sonifier
from deconv1d.errors import InputError
from deconv1d.report import LayerEntry, Recording, render_page, render_player
from deconv1d.report.notebook import pair_html, player_html
from deconv1d.report.sounds import (
    faster,
    levels_of,
    mean_of,
    picture_png,
    player_sounds,
    speed_of,
    wav_of,
)

RATE = 8000
HOSTILE = "\"><script>alert(1)</script> & 'x' $\\frac$"
TAGS = {"div", "h3", "table", "tr", "th", "td", "figure", "figcaption", "audio", "img", "p"}
SPEEDS = {8000: 1, 44_100: 1, 4000: 1, 3000: 1, 2999: 4, 500: 16, 250: 32, 100: 128, 1: 8192}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape)


class Page(HTMLParser):
    """Tags with their attributes, and the text, as a browser would see them."""

    def __init__(self, source: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data.strip("\n")  # a template has its line breaks

    def sources(self, tag: str) -> list[bytes]:
        """What the data URIs of these tags hold."""
        uris = [attributes["src"] for name, attributes in self.tags if name == tag]
        assert all(
            uri.startswith(("data:audio/wav;base64,", "data:image/png;base64,")) for uri in uris
        )
        return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


# --- rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "speed"), SPEEDS.items())
def test_every_sound_is_played_at_8_khz_or_more(rate, speed):
    samples = noise(600)
    content, heard_rate = soundfile.read(io.BytesIO(wav_of(samples, rate)))
    assert heard_rate >= 8000
    assert speed_of(rate) == speed
    # As long as it was, or so many times shorter.
    assert len(content) / heard_rate == pytest.approx(600 / rate / speed, rel=0.01)
    if rate >= 8000 or speed > 1:  # every sample is there
        np.testing.assert_allclose(content, samples, atol=2**-15)


def test_a_speed_up_is_stated():
    assert faster(1) == ""
    assert faster(speed_of(500)) == "played 16 x faster"


def shown(rate: int) -> dict[str, str]:
    """What each kind of page shows of two sounds of this rate."""
    sounds = {"input": noise(600), "sonification": noise(600) / 9}
    entry = LayerEntry("conv1", {}, player_sounds(sounds, rate), 1.0)
    return {
        "player": player_html(sounds["input"], rate, title="input"),
        "notebook": pair_html(sounds, rate, title="", facts={}),
        "card and comparison": render_player("both", sounds, rate),
        "demo": render_page("", [], [Recording("", "", [entry])]).partition("<script")[0],
    }


@pytest.mark.parametrize("kind", shown(500))
def test_every_page_says_how_much_faster_it_plays(kind):
    html = shown(500)[kind]
    assert "layed 16 x faster" in Page(html).text
    assert "x faster" not in Page(shown(8000)[kind]).text
    for uri in (a["src"] for tag, a in Page(html).tags if tag == "audio"):
        sound = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
        assert soundfile.info(sound).samplerate == 8000


def test_a_player_knows_its_speed_and_its_length():
    [root] = [
        attributes
        for tag, attributes in Page(render_player("", {"input": noise(1000)}, 500)).tags
        if attributes.get("class") == "player"
    ]
    assert (root["data-speed"], float(root["data-seconds"])) == ("16", 1000 / 8000)


def test_an_ecg_is_heard_in_a_notebook():
    model = nn.Sequential(nn.Conv1d(12, 4, 9), nn.ReLU())
    x = torch.randn(1, 12, 700, generator=torch.Generator().manual_seed(0))
    html = Sonifier(model, sample_rate=500).sonify(x, "0")._repr_html_()
    assert Page(html).text.count("played 16 x faster") == 2
    rates = [soundfile.info(io.BytesIO(s)).samplerate for s in Page(html).sources("audio")]
    assert rates == [8000, 8000]


# --- what a notebook shows -----------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(999,), (2, 999)])
def test_a_player_holds_the_sound(shape):
    page = Page(player_html(noise(*shape), RATE, title=HOSTILE))
    with soundfile.SoundFile(io.BytesIO(page.sources("audio")[0])) as file:
        assert (file.format, file.subtype, file.samplerate) == ("WAV", "PCM_16", RATE)
        samples = file.read(always_2d=True)
    np.testing.assert_allclose(samples.T, np.atleast_2d(noise(*shape)), atol=2**-15)
    assert page.text == HOSTILE
    assert [tag for tag, _ in page.tags] == ["figure", "figcaption", "audio"]
    assert "controls" in page.tags[2][1]


def test_a_player_scales_a_high_peak_and_leaves_a_low_one():
    for peak, expected in ((256, 1), (0.01, 0.01)):
        page = Page(player_html(np.array([0, -peak], float), RATE, title=""))
        samples, _ = soundfile.read(io.BytesIO(page.sources("audio")[0]))
        assert abs(samples).max() == pytest.approx(expected, abs=2**-14)


def test_a_pair_shows_facts_players_and_pictures():
    sounds = {HOSTILE: noise(999), "louder": 4 * noise(999)}
    facts = {HOSTILE: HOSTILE, "channel": 3, "flagged": 0.5}
    page = Page(pair_html(sounds, RATE, title=HOSTILE, facts=facts))
    peaks = [abs(soundfile.read(io.BytesIO(source))[0]).max() for source in page.sources("audio")]
    assert peaks == pytest.approx([0.25, 1], rel=0.01)
    first, second = (Image.open(io.BytesIO(source)) for source in page.sources("img"))
    assert first.size == second.size
    # Both are in decibels re the first: the louder one is brighter.
    assert np.mean(second.convert("L")) > np.mean(first.convert("L"))
    assert page.text.startswith(HOSTILE * 3 + "channel3flagged0.5" + HOSTILE + "louder")
    assert "0 to 0.125 s" in page.text
    assert "0 to 4000 Hz" in page.text
    assert {tag for tag, _ in page.tags} == TAGS
    alts = [a.get("alt") for _, a in page.tags if "alt" in a]
    assert alts == [f"Spectrogram and waveform: {name}" for name in sounds]


def test_a_pair_has_the_notebooks_own_colours():
    html = pair_html({"a": noise(99)}, RATE, title="", facts={})
    assert not {"background:", "color:"} & set(html.replace(" ", "").split(";"))
    assert "color:" not in html


def test_a_pair_of_nothing_is_refused():
    with pytest.raises(InputError, match="nothing to show"):
        pair_html({}, RATE, title="", facts={})
    with pytest.raises(InputError, match="NaN"):
        pair_html({"a": np.array([np.nan])}, RATE, title="", facts={})
    with pytest.raises(InputError, match="whole number"):
        pair_html({"a": noise(9)}, 0, title="", facts={})


def test_channels_that_cancel_are_played_as_silence():
    """Their mean is rounding error: beside it every other sound's picture would be white."""
    lead = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    leads = lead * torch.linspace(-1, 1, 12)[:, None]
    assert float(leads.mean(0).abs().max()) > 0
    assert not mean_of(leads).any()
    assert mean_of(leads[:5]).any()
    assert levels_of({"input": mean_of(leads), "sonification": mean_of(lead)})["sonification"] == 1


def test_pictures_of_pages_need_no_figure():
    """They are drawn by Pillow: Matplotlib gives the colours alone."""
    code = (
        "import sys, numpy as np; from deconv1d.report.sounds import picture_png\n"
        "picture_png(np.ones(999), 8000)\n"
        "assert 'matplotlib.figure' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert picture_png(noise(999), RATE).startswith(b"\x89PNG")
