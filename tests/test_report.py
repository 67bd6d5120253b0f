"""The report of a mined folder: what is read, what is written, and what is refused."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from mined import clips_of, write_mined
from PIL import Image
from torch import nn

from deconv1d import FileError, Sonifier
from deconv1d.cli.commands import main
from deconv1d.report import PAGE
from deconv1d.report.mined_folder import read_mined_folder
from deconv1d.report.mined_report import json_for_script, write_report
from deconv1d.report.sounds import levels_of, picture_png, playable, rms

RATE = 8000
HOSTILE = "</script><script>alert(1)</script>&amp;\u2028\n\"'"
LAYERS = ["0", "2"]


def network() -> Sonifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 33), nn.ReLU(), nn.Conv1d(4, 5, 9, stride=2), nn.ReLU())
    return Sonifier(model, sample_rate=RATE)


@pytest.fixture(scope="module")
def sonifier():
    return network()


@pytest.fixture(scope="module")
def mined(tmp_path_factory, sonifier):
    folder = tmp_path_factory.mktemp("mined") / "out"
    names = ("low/a", "low/b", "high/c", f"high/{HOSTILE.replace('/', '')}")
    clips = clips_of(*names, samples=4000)
    return write_mined(folder, sonifier, clips, LAYERS, name=HOSTILE, channels=5)


@pytest.fixture
def again(mined, tmp_path):
    """The winners' rows, and a function that writes them with changes into a new folder."""
    rows = pq.read_table(mined / "winners.parquet").to_pylist()

    def write(changed):
        folder = tmp_path / "changed"
        folder.mkdir()
        (folder / "layers.json").write_bytes((mined / "layers.json").read_bytes())
        pq.write_table(pa.Table.from_pylist(changed), folder / "winners.parquet")
        return folder

    return rows, write


def facts_of(page) -> dict:
    """The JSON in a page."""
    found = re.search(r'id="report-data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found[1])


# --- what is read --------------------------------------------------------------------------------


def test_a_mined_folder_is_read(mined):
    found = read_mined_folder(mined)
    assert (found.name, found.sample_rate, found.clips) == (HOSTILE, RATE, 4)
    assert [layer.name for layer in found.layers] == LAYERS
    best = found.layers[0].winners[0]
    assert [winner.value for winner in best] == sorted((w.value for w in best), reverse=True)
    assert list(best[0].sounds) == ["input", "sonification", "mask", "random seed"]
    assert best[0].klass in ("low", "high")


@pytest.mark.parametrize("name", ["winners.parquet", "layers.json"])
def test_a_missing_or_damaged_table_is_named(mined, tmp_path, name):
    with pytest.raises(FileError, match="no such folder"):
        read_mined_folder(tmp_path / "nothing")
    for other in ("winners.parquet", "layers.json"):
        content = (mined / other).read_bytes()
        (tmp_path / other).write_bytes(content[:99] if other == name else content)
    with pytest.raises(FileError, match=f"{name}' cannot be read: expected"):
        read_mined_folder(tmp_path)


def test_a_missing_column_is_named(again):
    rows, write = again
    folder = write([{k: v for k, v in row.items() if k != "value"} for row in rows])
    with pytest.raises(FileError, match="got none of 'value'"):
        read_mined_folder(folder)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "sounds/../../x.flac"])
def test_a_path_out_of_the_folder_is_refused(again, path):
    rows, write = again
    folder = write([{**rows[0], "path": path}, *rows[1:]])
    with pytest.raises(FileError, match="a sound outside its folder"):
        read_mined_folder(folder)


def test_a_link_out_of_the_folder_is_refused(again, tmp_path):
    rows, write = again
    folder = write([{**rows[0], "path": "link.flac"}, *rows[1:]])
    (folder / "link.flac").symlink_to(tmp_path / "elsewhere.flac")
    with pytest.raises(FileError, match="a sound outside its folder"):
        read_mined_folder(folder)


# --- what is written -----------------------------------------------------------------------------


def test_the_report_has_each_channels_sounds(mined, sonifier, tmp_path):
    page = write_report(mined, folder=tmp_path / "report", tuning={"0": sonifier.tuning("0")})
    (model,) = facts_of(page)["models"]
    rows = pq.read_table(mined / "winners.parquet").to_pylist()
    assert [layer["name"] for layer in model["layers"]] == LAYERS
    for layer in model["layers"]:
        for cell in layer["cells"]:
            own = [
                r for r in rows if (r["layer"], r["channel"]) == (layer["name"], cell["channel"])
            ]
            own.sort(key=lambda row: row["rank"])
            assert [top["clip"] for top in cell["top"]] == [row["clip"] for row in own]
            for top, row in zip(cell["top"], own, strict=True):
                assert top["seconds"] == 0.5
                assert top["start"] * RATE <= row["first_sample"]
                assert top["end"] * RATE >= row["last_sample"]
                for name, level, stem, loudness in top["sounds"]:
                    sound, rate = soundfile.read(page.parent / f"{stem}.wav")
                    assert rate == RATE
                    assert 0 < level <= 1
                    assert loudness == pytest.approx(rms(sound), rel=1e-3)
                    picture = Image.open(page.parent / f"{stem}.png")
                    assert picture.size[0] >= 400
                    column = {"sonification": "path", "input": "input_path"}.get(name)
                    if column:
                        source, _ = soundfile.read(mined / row[column])
                        np.testing.assert_allclose(sound, source, atol=2**-15)
    curves = model["layers"][0]["tuning"]
    assert set(curves["channels"]) == {"0", "1", "2", "3"}
    assert len(curves["channels"]["0"]["exact"]) == len(curves["hertz"])
    assert model["layers"][1]["tuning"] is None


def test_class_purity_and_trust_are_those_of_the_winners(mined, tmp_path):
    page = write_report(mined, folder=tmp_path / "report")
    cells = facts_of(page)["models"][0]["layers"][0]["cells"]
    for cell in cells:
        classes = [top["class"] for top in cell["top"]]
        assert cell["purity"] == pytest.approx(max(map(classes.count, classes)) / len(classes))
    assert [cell["trust"] for cell in cells] == [
        pytest.approx(0.2),
        None,
        *map(pytest.approx, (0.6, 0.8)),
    ]


def test_two_data_sets_of_one_model_are_told_apart(mined, again, tmp_path):
    rows, write = again
    folder = write([row for row in rows if row["rank"] == 0])
    for other, names in ((folder, (mined.name, folder.name)), (mined, ("out 1", "out 2"))):
        page = write_report(mined, other, folder=tmp_path / "report")
        found = [model["name"] for model in facts_of(page)["models"]]
        assert found == [f"{HOSTILE}, {name}" for name in names]
    cell = facts_of(write_report(folder, folder=tmp_path / "one"))["models"][0]["layers"][0]
    assert cell["cells"][0]["sentence"].startswith("Of all recordings it responds most to the one")


def test_the_report_is_the_same_each_time_and_replaces_an_older_one(mined, tmp_path):
    pages = [write_report(mined, folder=tmp_path / "report").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]
    (tmp_path / "report" / "mine.txt").write_text("mine")
    with pytest.raises(FileError, match="got other files"):
        write_report(mined, folder=tmp_path / "report")


def test_names_are_data_and_never_html(mined, tmp_path):
    page = write_report(mined, mined, folder=tmp_path / "report")
    text = page.read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert text.count("</script>") == 3
    facts = facts_of(page)
    assert facts["models"][0]["name"] == f"{HOSTILE}, out 1"
    assert "://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_sound_that_is_missing_is_said_and_the_others_are_shown(again, mined, tmp_path):
    rows, write = again
    folder = write(rows)
    for part in ("inputs", "sounds"):
        shutil.copytree(mined / part, folder / part)
    (folder / rows[0]["path"]).write_bytes(b"")
    facts = facts_of(write_report(folder, folder=tmp_path / "report"))
    tops = [t for layer in facts["models"][0]["layers"] for c in layer["cells"] for t in c["top"]]
    problems = [top["problem"] for top in tops if top["problem"]]
    assert len(problems) == 1
    assert problems[0].startswith("The sonification cannot be played.")
    assert sum("sonification" in [s[0] for s in top["sounds"]] for top in tops) == len(tops) - 1


def test_winners_without_sounds_have_a_page(again, tmp_path):
    rows, write = again
    keep = ("clip", "layer", "channel", "rank", "value")
    folder = write([{k: row[k] for k in keep} for row in rows])
    facts = facts_of(write_report(folder, folder=tmp_path / "report"))
    assert not any(t["sounds"] for c in facts["models"][0]["layers"][0]["cells"] for t in c["top"])


def test_json_cannot_end_its_element():
    text = json_for_script({HOSTILE: [float("nan"), "<!--"]})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {HOSTILE: [None, "<!--"]}


# --- sounds and pictures -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "played", "speed"),
    [(44100, 44100, 1), (4000, 8000, 1), (500, 8000, 16), (100, 12800, 128)],
)
def test_low_rates_are_played_at_rates_that_browsers_play(rate, played, speed):
    samples, found, times = playable(np.ones(rate), rate)
    assert (found, times) == (played, speed)
    assert len(samples) / found == pytest.approx(1 / speed)


def test_levels_make_sounds_equally_loud():
    noise = np.random.default_rng(0).standard_normal(999)
    tracks = {"a": noise, "b": 0.5 * noise, "silent": 0 * noise}
    levels = levels_of(tracks)
    assert levels == {"a": pytest.approx(0.5), "b": 1.0, "silent": 1.0}
    assert levels_of({"a": noise, "b": 1e-9 * noise})["a"] == pytest.approx(0.1)
    assert levels_of({"a": 0 * noise}) == {"a": 1.0}


@pytest.mark.parametrize("samples", [1, 7, 100, 9000])
def test_a_picture_shows_when_and_at_which_frequency(samples):
    time = np.arange(samples)
    sound = np.sin(2 * np.pi * 0.25 * time) * (time >= samples / 2)
    picture = Image.open(io.BytesIO(picture_png(sound, RATE)))
    pixels = np.asarray(picture)
    assert picture.mode == "P"
    if samples == 9000:
        spectrogram = pixels[:96]
        assert spectrogram[:, : spectrogram.shape[1] // 2 - 20].max() == 0
        row = 95 - spectrogram[:, -100].argmax()  # upwards from 0 Hz
        mel = 2595 * np.log10(1 + 2000 / 700) / (2595 * np.log10(1 + 4000 / 700))
        assert row == pytest.approx(96 * mel, abs=2)


def test_silence_has_a_picture():
    assert np.asarray(Image.open(io.BytesIO(picture_png(np.zeros(100), RATE)))).max() <= 200


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_the_page(mined, tmp_path, capsys):
    folder = tmp_path / "page"
    assert main(["report", str(mined), str(mined), "-o", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": str(folder / PAGE)}
    assert len(facts_of(folder / PAGE)["models"]) == 2
    (tmp_path / "models.py").write_text(
        "from torch import nn\n"
        "def one(): return nn.Sequential(nn.Conv1d(1, 4, 33), nn.ReLU(), nn.Conv1d(4, 5, 9))\n"
    )
    factory = f"{tmp_path / 'models.py'}:one"
    both = ["--model", factory, "--other-model", factory]
    assert main(["report", str(mined), str(mined), "-o", str(folder), *both]) == 0
    for model in facts_of(folder / PAGE)["models"]:
        assert all(layer["tuning"] for layer in model["layers"])
    assert main(["report", str(mined), "-o", str(folder), "--other-model", factory]) == 2
    assert "expected a second folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "-o", str(folder)]) == 2
    assert "holds nothing to show" in capsys.readouterr().err


def test_the_command_makes_the_mined_model_as_all_commands_do(mined, tmp_path, capsys):
    """From a trainer's checkpoint; at the rate that it was mined at, if none is given."""
    torch.save({"ema": network().model.state_dict(), "epoch": 3}, tmp_path / "run.ckpt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential("
        "nn.Conv1d(1, 4, 33), nn.ReLU(), nn.Conv1d(4, 5, 9, stride=2), nn.ReLU())\n"
    )
    made = ["--model", f"{tmp_path / 'net.py'}:make", "--weights", str(tmp_path / "run.ckpt")]
    folder = tmp_path / "page"
    code = main(["report", str(mined), *made, "--key", "ema", "--device", "cpu", "-o", str(folder)])
    assert code == 0, capsys.readouterr().err
    (model,) = facts_of(folder / PAGE)["models"]
    assert model["layers"][0]["tuning"] is not None


def test_the_example_in_the_docs_is_small_whole_and_linked():
    docs = Path(__file__).parents[1] / "docs"
    files = [path for path in (docs / "example").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 * 2**20
    assert "(example/index.html)" in (docs / "listen.md").read_text("utf-8")
    (model,) = facts_of(docs / "example" / "index.html")["models"]
    tops = [top for layer in model["layers"] for cell in layer["cells"] for top in cell["top"]]
    assert tops
    for top in tops:
        assert top["sentence"]
        assert len(top["sounds"]) == 5
        for _, _, stem, _ in top["sounds"]:
            assert (docs / "example" / f"{stem}.wav").is_file()
