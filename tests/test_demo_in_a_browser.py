"""The demo's page of one's own recording, at a rate that nobody hears, as a reader uses it."""

import pytest
import torch
from browser import chromium, needs_browser, opened, sideways
from mined import clips_of, write_mined
from torch import nn

from deconv1d import Sonifier
from deconv1d.audio import write_audio
from deconv1d.explore import Studio
from deconv1d.report import render_card, render_document
from deconv1d.report.listening import Shown, Subject, write_listening_page
from deconv1d.report.mined_report import write_report

pytestmark = needs_browser

RATE, SAMPLES = 500, 40_000
PLAYER = "deconv1d.current"


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def sonifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 9), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 5, 9))
    return Sonifier(model, sample_rate=RATE)


@pytest.fixture(scope="module")
def waveform():
    return 0.3 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def page(tmp_path_factory, sonifier, waveform):
    subject = Subject("beat.wav", "80 s at 500 Hz.", "recording-1", sonifier, waveform)
    folder = tmp_path_factory.mktemp("demo") / "page"
    shown = Shown(masks=False, progress=False)
    return write_listening_page(folder, "Own", ["A summary.", "More."], [subject], shown).as_uri()


def wait(page, condition: str) -> None:
    page.wait_for_function(condition, timeout=20000)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 820, 390])
def test_it_fits_and_shows_one_layer_at_a_time(browser, page, width, dark):
    with opened(browser, page, width=width, dark=dark) as opened_page:
        assert sideways(opened_page) == 0
        assert opened_page.locator("nav").count() == 0  # there is one recording
        assert opened_page.locator(".layer:visible").count() == 1
        opened_page.get_by_role("button", name="3", exact=True).click()
        assert opened_page.locator(".layer:visible h3").inner_text() == "3"


def test_the_clock_is_the_recordings_and_the_speed_is_said(browser, page):
    with opened(browser, page) as opened_page:
        assert "Played 16 x faster" in opened_page.locator(".faster:visible").inner_text()
        clock = opened_page.locator(".clock:visible")
        assert clock.inner_text() == "0.00 / 80.00 s"
        opened_page.keyboard.press("Space")
        wait(opened_page, f"{PLAYER}.audio.currentTime > 0.1")
        assert opened_page.evaluate(f"{PLAYER}.audio.duration") == pytest.approx(5, abs=0.01)
        here = float(clock.inner_text().split()[0])
        position = opened_page.evaluate(f"{PLAYER}.audio.currentTime")
        assert 1 < here <= 16 * position + 0.01


def test_the_papers_loudness_is_one_click_away(browser, page):
    with opened(browser, page) as opened_page:
        levels = opened_page.evaluate(f"{PLAYER}.sounds.map(s => s.level)")
        assert min(levels) < 0.99
        loudest = levels.index(min(levels))
        opened_page.keyboard.press(str(loudest + 1))
        opened_page.keyboard.press("Space")
        wait(opened_page, f"{PLAYER}.audio.volume < 0.99")
        assert opened_page.evaluate(f"{PLAYER}.audio.volume") == pytest.approx(levels[loudest])
        button = opened_page.get_by_role("button", name="Same loudness").first
        button.click()
        assert opened_page.evaluate(f"{PLAYER}.audio.volume") == 1
        said = opened_page.locator(".loudness:visible").first.inner_text()
        assert said == "each at the recording’s peak, as in the paper"
        button.click()
        assert opened_page.evaluate(f"{PLAYER}.audio.volume") == pytest.approx(levels[loudest])


def test_a_card_plays_faster_too(browser, sonifier, waveform, tmp_path):
    card = sonifier.control_card(waveform[:4000], "0", quick=True)
    file = tmp_path / "card.html"
    file.write_text(render_document("card", render_card(card)), "utf-8")
    for width, dark in ((390, True), (1280, False)):
        with opened(browser, file.as_uri(), width=width, dark=dark) as page:
            assert sideways(page) == 0
            assert "Played 16 x faster" in page.locator(".faster").inner_text()
            assert page.locator(".clock").inner_text().endswith("/ 8.00 s")
            assert page.locator("table:visible").count() == 0  # folded


def test_a_report_and_the_live_page_play_faster_too(browser, sonifier, tmp_path):
    clips = clips_of("low/a", "low/b", samples=4000, rate=RATE)
    mined = write_mined(tmp_path / "mined", sonifier, clips, ["0"])
    report = write_report(mined, folder=tmp_path / "report")
    with opened(browser, f"{report.as_uri()}#0/0/1") as page:
        assert "Played 16 x faster" in page.locator(".faster").first.inner_text()
        assert page.locator(".clock").first.inner_text().endswith("/ 8.00 s")
    studio = Studio(sonifier)
    write_audio(tmp_path / "clip.wav", clips["low/a"].numpy(), RATE)
    clip = studio.take_file(tmp_path / "clip.wav")["clip"]
    request = {"clip": clip, "layer": "0", "channel": 1, "method": "deconvnet", "contrast": False}
    facts = studio.hear(request)
    assert {sound["speed"] for sound in facts["sounds"]} == {16}
    assert facts["seconds"] == 4000 / 8000
