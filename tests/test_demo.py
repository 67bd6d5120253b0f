"""The demo: its words, its page and that the page's folder is whole or not there."""

import importlib.util
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
import soundfile
import torch
from command import check_refused, enter, sound, write

from deconv1d import Sonifier
from deconv1d.audio import read_audio
from deconv1d.cli.commands import main
from deconv1d.cli.demo import SAMPLE_RATE
from deconv1d.errors import FileError
from deconv1d.report import PAGE, LayerEntry, Recording, render_page, whole_folder
from deconv1d.report.listening import FILES, LEVEL
from deconv1d.report.sounds import PlayerSound
from deconv1d.sounding import to_peak_of
from reference_models.clips import spoken_words
from reference_models.cnn12 import demo
from reference_models.data.layouts import WORDS

WORD = "seven"
REGIMES = ("supervised", "contrastive")
LAYERS = [f"conv{number}" for number in range(1, 12)]
HOSTILE = "\"><script>alert('1')</script> & {{ 1 }}?#"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The demo of one word."""
    folder = tmp_path_factory.mktemp("demo") / "a folder's <name>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deconv1d.cli.demo.WORDS", (WORD,))
        assert main(["demo", "-o", str(folder), "--json"]) == 0
    return folder / PAGE


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text between tags."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data.strip())

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]

    def files(self) -> list[str]:
        named = [a[k] for _, a in self.tags for k in ("src", "srcset") if k in a]
        return [unquote(file) for file in named]


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page.read_text("utf-8"))


# --- what ships ----------------------------------------------------------------------------------


def test_the_words_are_small_clean_files():
    spoken = spoken_words()
    assert 6 <= len(spoken) <= 8
    assert sum(word.path.stat().st_size for word in spoken) < 100_000
    for word in spoken:
        waveform, rate = read_audio(word.path)
        assert (waveform.shape, rate) == ((8000,), 8000)
        assert np.abs(waveform).max() == pytest.approx(1, abs=1e-4)
        assert abs(waveform.mean()) < 0.01


@pytest.mark.skipif(not importlib.util.find_spec("espeakng_loader"), reason="needs eSpeak NG")
def test_the_words_are_those_of_the_test_split():
    from reference_models.data.words import list_words, read_word

    clips = {clip.id: clip for clip in list_words(240).clips if clip.split == "test"}
    for word, voice, path in spoken_words()[:2]:
        rendered = read_word(clips[f"{word}/{voice}"])
        shipped, _ = read_audio(path)
        np.testing.assert_allclose(shipped, rendered / np.abs(rendered).max(), atol=1e-4)


def test_the_network_knows_the_words():
    waveforms = torch.stack([torch.from_numpy(read_audio(w.path)[0]) for w in spoken_words()])
    with torch.no_grad():
        heard = [WORDS[number] for number in demo()(waveforms[:, None]).argmax(-1)]
    said = [word.word for word in spoken_words()]
    assert np.mean([one == other for one, other in zip(heard, said, strict=True)]) > 0.7


# --- the page ------------------------------------------------------------------------------------


def test_each_layer_has_its_sounds_and_pictures(elements):
    text = elements.text
    assert [t for t in text if t in LAYERS] == 2 * LAYERS
    assert len(elements.all("audio")) == 2 * 4 * len(LAYERS)
    sounds = ["input", "sonification", "masked", "residual"]
    assert [t for t in text if t in sounds] == sounds * len(2 * LAYERS)
    assert len(elements.all("img")) == len(elements.all("audio"))
    assert all("alt" in image for image in elements.all("img"))
    assert all("controls" in audio and audio["aria-label"] for audio in elements.all("audio"))


def test_the_page_needs_its_own_files_and_nothing_else(page, elements):
    there = {p.relative_to(page.parent).as_posix() for p in page.parent.rglob("*") if p.is_file()}
    assert set(elements.files()) | {PAGE} == there
    assert {Path(name).name for name in there} == set(FILES)
    assert not {"link", "iframe", "base", "object"} & {tag for tag, _ in elements.tags}
    assert elements.all("script") == [{}]  # inside
    assert not [a for _, a in elements.tags if any(name.startswith("on") for name in a)]
    assert "://" not in page.read_text("utf-8")
    assert "url(" not in page.read_text("utf-8")
    assert sum(p.stat().st_size for p in page.parent.rglob("*")) < 4_000_000


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("layer", ["conv1", "conv8"])
def test_the_sounds_are_the_librarys(page, layer, regime):
    [path] = [word.path for word in spoken_words() if word.word == WORD]
    x = torch.from_numpy(read_audio(path)[0])
    sonifier = Sonifier(demo(regime=regime), sample_rate=SAMPLE_RATE)
    options = {"layer": layer, "channel": "most_active"}
    masked = sonifier.sonify(x, method="mask", **options).waveform
    found = sonifier.sonify(x, **options)
    folder = page.parent / f"{WORD}-{regime}"
    sounds = {
        folder / "input.wav": x,
        folder / layer / "sonification.wav": found.waveform,
        folder / layer / "masked.wav": to_peak_of(x, masked)[0],
        folder / layer / "residual.wav": found.residual,
    }
    for file, expected in sounds.items():
        written, rate = soundfile.read(file)
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(written, LEVEL * expected.numpy(), atol=1e-4)
    text = Elements(page.read_text("utf-8")).text
    headings = [n for n, part in enumerate(text) if part == f"{WORD}, {regime}"]
    facts = text[headings[-1] :]  # the first is in the list of recordings
    facts = facts[facts.index(layer) :]
    assert facts[facts.index("channel") + 1] == str(int(found.channel))


def elements_of_a_page(text: str) -> Elements:
    sound = PlayerSound(text, quote(f"{text}.wav"), quote(f"{text}.png"), 1.0)
    layer = LayerEntry(text, {text: text}, [sound], 1.0)
    return Elements(render_page(text, [text], [Recording(text, text, [layer])]))


def test_names_are_escaped():
    plain, hostile = elements_of_a_page("name"), elements_of_a_page(HOSTILE)
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert hostile.text.count(HOSTILE) == plain.text.count("name")
    assert hostile.files() == [f"{HOSTILE}{end}" for end in (".wav", ".png")]
    assert not [a for _, a in hostile.tags if {"?", "#", " "} & set(a.get("src", ""))]


# --- a model of one's own -------------------------------------------------------------------------

ECG = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(inputs, 6, 9, 2), nn.BatchNorm1d(6)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))

def ecg(leads=12):
    torch.manual_seed(0)
    blocks = [Block(leads), Block(6), Block(6)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 5))

def mono():
    return ecg(1)
"""
ECG_RATE = 500


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a model and two recordings of 12 leads."""
    enter(tmp_path, monkeypatch)
    Path("mine.py").write_text(ECG)
    for number in range(2):
        write(f"beat {number}.wav", 0.1 * sound(900, 12), ECG_RATE)
    return tmp_path


def make_own(*more: str, model: str = "mine.py:ecg") -> Elements:
    options = ["--model", model, "--sample-rate", str(ECG_RATE), "-o", "page"]
    assert main(["demo", *more, *options]) == 0
    return Elements(Path("page", PAGE).read_text("utf-8"))


def test_the_page_of_a_model_of_ones_own(own):
    elements = make_own("beat*.wav")
    assert [t for t in elements.text if t in ("beat 0.wav", "beat 1.wav")] == [
        *("beat 0.wav", "beat 1.wav"),
        *("beat 0.wav", "beat 1.wav"),
    ]
    layers = ["0.conv", "1.conv", "2.conv"]
    assert [t for t in elements.text if t in layers] == 2 * layers
    assert elements.text.count("most_active") == 0
    assert any("What ecg hears" in text for text in elements.text)
    assert any("1.8 s at 500 Hz; 12 channels" in text for text in elements.text)
    assert any("Played 16 x faster" in text for text in elements.text)
    there = {p.relative_to("page").as_posix() for p in Path("page").rglob("*") if p.is_file()}
    assert set(elements.files()) | {PAGE} == there
    assert len(elements.all("audio")) == 2 * 3 * 4
    assert all(soundfile.info(p).samplerate == 8000 for p in Path("page").rglob("*.wav"))


def test_layers_and_channel_are_chosen_and_masks_left_out(own):
    elements = make_own("beat 0.wav", "--layers", "2.norm,0.conv", "--channel", "4", "--quick")
    assert [t for t in elements.text if t.endswith((".norm", ".conv"))] == ["2.norm", "0.conv"]
    places = [n for n, text in enumerate(elements.text) if text == "channel"]
    assert [elements.text[n + 1] for n in places] == ["4", "4"]
    assert "masked" not in elements.text
    assert len(elements.all("audio")) == 2 * 3
    waveform, _ = read_audio("beat 0.wav", ECG_RATE, mono=False)
    namespace: dict = {}
    exec(ECG, namespace)
    model = namespace["ecg"]().eval()
    found = Sonifier(model, sample_rate=ECG_RATE).sonify(waveform[None], "0.conv", channel=4)
    written, _ = soundfile.read("page/recording-1/0.conv/sonification.wav")
    expected = LEVEL / np.abs(waveform).max() * found.waveform[0].mean(0).numpy()
    np.testing.assert_allclose(written, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["beat 0.wav"], ("no --model", "deconv1d demo --model mine.py:factory recording.wav")),
        (["--model", "mine.py:ecg"], ("no recordings",)),
        (["beat 0.wav", "--model", "mine.py:ecg"], ("--sample-rate is missing",)),
        (
            ["beat 0.wav", "--model", "mine.py:ecg", "--sample-rate", "500", "--layers", "9.conv"],
            ("'9.conv'",),
        ),
        (
            ["beat 0.wav", "--model", "mine.py:ecg", "--sample-rate", "500", "--channel", "0,1"],
            ("One channel",),
        ),
        (["none.wav", "--model", "mine.py:ecg", "--sample-rate", "500"], ("'none.wav'",)),
    ],
)
def test_what_a_page_of_ones_own_needs(own, capsys, arguments, words):
    check_refused(capsys, main(["demo", *arguments, "-o", "out"]), *words)


def test_an_hour_of_work_is_not_begun_for_a_folder_that_cannot_be_written(own, capsys):
    arguments = ["beat 0.wav", "--model", "models.py:failing", "-o", "nowhere/out"]
    check_refused(capsys, main(["demo", *arguments]), "'nowhere/out' cannot be written")


# --- the folder ----------------------------------------------------------------------------------


def make(folder: Path, content: str = "new", error: type[BaseException] | None = None) -> None:
    with whole_folder(folder, names=(PAGE, "a.wav")) as part:
        (part / PAGE).write_text(render_page(content, [], []))
        (part / "deep").mkdir()
        if error:
            raise error("stop")
        (part / "deep" / "a.wav").write_text(content)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def test_a_folder_is_made_and_made_again(folder):
    for content in ("one", "two"):
        make(folder, content)
        assert content in (folder / PAGE).read_text()
        assert sorted(p.name for p in folder.parent.rglob("*")) == ["a.wav", "deep", PAGE, "out"]


def test_the_current_folder_stays(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(FileError, match="or the current folder"):
        make(Path())
    assert not os.listdir(folder)


def test_a_link_leads_to_its_folder(folder):
    folder.mkdir()
    (folder.parent / "link").symlink_to(folder)
    make(folder.parent / "link")
    assert (folder / PAGE).exists()
    assert (folder.parent / "link").is_symlink()


def test_an_empty_folder_is_filled(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder.parent)
    make(Path("out"))
    assert (folder / PAGE).exists()


@pytest.mark.parametrize("name", ["mine.txt", "deep/mine.wav", "deep/deeper/.hidden"])
def test_a_folder_with_other_files_stays(folder, name):
    make(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("mine")
    with pytest.raises(FileError, match=r"out' cannot be written: .*got other files"):
        make(folder, "newer")
    assert (folder / name).read_text() == "mine"
    assert "new<" in (folder / PAGE).read_text()


@pytest.mark.parametrize(
    "make_other",
    [lambda f: f.mkdir() or (f / PAGE).write_text("<html>"), lambda f: f.write_text("a file")],
)
def test_what_is_no_older_page_stays(folder, make_other):
    make_other(folder)
    with pytest.raises(FileError, match="got other files"):
        make(folder)
    assert folder.is_file() or (folder / PAGE).read_text() == "<html>"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, FileError])
@pytest.mark.parametrize("older", [False, True])
def test_nothing_changes_when_it_fails(folder, error, older):
    if older:
        make(folder, "older")
    with pytest.raises(error, match="stop"):
        make(folder, "half", error)
    assert os.listdir(folder.parent) == (["out"] if older else [])
    assert not older or "older" in (folder / PAGE).read_text()


@pytest.mark.parametrize("place", ["missing/out", "file/out"])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("a file")
    assert main(["demo", "-o", place]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"{place}' cannot be written: " in err
    assert os.listdir() == ["file"]


def test_ctrl_c_leaves_no_folder(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("deconv1d.report.listening.picture_png", stop)
    assert main(["demo", "-o", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "deconv1d: interrupted"
    assert not os.listdir(tmp_path)
