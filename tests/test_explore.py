"""The live page: what it computes, and what it keeps out."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from deconv1d import InputError, Sonifier
from deconv1d.cli.commands import main

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

from command import ENVIRONMENT, FACTORIES
from starlette.testclient import TestClient

from deconv1d.explore import Studio
from deconv1d.explore.server import LARGEST_REQUEST, application, serve
from deconv1d.explore.studio import CLIPS_KEPT
from deconv1d.masks.hearing import Hearing

RATE, TOKEN = 8000, "a-token"
HOSTILE = "</script><script>alert(1)</script>"
HEADERS = {"x-token": TOKEN}


def sound_file(samples: int = 4000, rate: int = RATE, file_format: str = "WAV") -> bytes:
    content = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, samples)
    soundfile.write(content, noise, rate, format=file_format)
    return content.getvalue()


@pytest.fixture(scope="module")
def sonifier():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 4, 33), nn.ReLU(), nn.Conv1d(4, 5, 9), nn.ReLU())
    return Sonifier(model, sample_rate=RATE)


@pytest.fixture
def client(sonifier):
    app = application(Studio(sonifier), TOKEN, hosts=["127.0.0.1", "localhost"])
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def clip(client):
    return client.post("/clip", content=sound_file(), headers=HEADERS).json()


def ask(client, given, **changes):
    words = {"clip": given["clip"], "layer": "2", "channel": 1, "method": "deconvnet"}
    body = json.dumps({**words, "contrast": True, **changes})
    return client.post("/sonify", content=body, headers=HEADERS)


def samples_of(uri: str) -> np.ndarray:
    return soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))[0]


# --- what it computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_clip_is_taken(client, sonifier, file_format):
    content = sound_file(8000, 16000, file_format)
    facts = client.post("/clip", content=content, headers=HEADERS).json()
    assert facts["seconds"] == pytest.approx(0.5, abs=0.1)
    assert [len(layer["activations"]) for layer in facts["layers"]][:1] == [4]


def test_a_channel_is_heard(client, clip, sonifier):
    facts = ask(client, clip).json()
    assert [sound["name"] for sound in facts["sounds"]] == ["input", "sonification", "residual"]
    x = torch.from_numpy(soundfile.read(io.BytesIO(sound_file()), dtype="float32")[0])
    wanted = sonifier.sonify(x, layer="2", channel=1).waveform
    heard = samples_of(facts["sounds"][1]["file"])
    correlation = np.corrcoef(heard, wanted.numpy())[0, 1]
    assert correlation > 0.999


def test_a_mask_is_heard(client, clip):
    facts = ask(client, clip, method="mask", contrast=False).json()
    assert [sound["name"] for sound in facts["sounds"]][1] == "masked"


def test_what_masks_have_in_common_is_done_once_and_ahead(client, clip, sonifier, monkeypatch):
    """The random masks: most of the work, and the same for all channels and layers of a clip."""
    assert ask(client, clip).status_code == 200  # the rest is done when the answer was sent
    right, calls = Hearing.maps, []
    monkeypatch.setattr(Hearing, "maps", lambda self, x: (calls.append(len(x)), right(self, x))[1])
    x = torch.from_numpy(soundfile.read(io.BytesIO(sound_file()), dtype="float32")[0])
    for layer, channel in (("2", 3), ("0", 1)):
        facts = ask(client, clip, layer=layer, channel=channel, method="mask").json()
        heard = samples_of(facts["sounds"][1]["file"])
        assert calls.pop() == 1
        assert not calls
        wanted = sonifier.sonify(x, layer=layer, channel=channel, method="mask").waveform
        calls.clear()
        wanted = wanted * x.abs().max() / wanted.abs().max()
        np.testing.assert_allclose(heard, wanted.numpy(), atol=2**-14)


def test_a_slow_model_does_not_work_ahead(sonifier, monkeypatch):
    studio = Studio(sonifier)
    key = studio.take(sound_file(200_000))["clip"]
    assert not studio.prepare("unknown")
    assert studio.prepare(key)
    assert studio._clips[key].survey.left == 15  # of 16 batches of two masks and their partners
    monkeypatch.setattr("deconv1d.explore.studio.LONGEST_WAIT", 1e-9)
    assert not studio.prepare(key)
    monkeypatch.undo()
    while studio.prepare(key):
        pass
    assert studio._clips[key].survey.left == 0


def test_old_clips_are_forgotten(client, clip):
    for _ in range(CLIPS_KEPT):
        client.post("/clip", content=sound_file(400), headers=HEADERS)
    response = ask(client, clip)
    assert response.status_code == 400
    assert "no longer here" in response.json()["message"]


# --- bad clips and rubbish -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The clip"),
        (b"\0" * 5000, "The clip"),
        (HOSTILE.encode(), "The clip"),
        (sound_file()[:60], "The clip"),
        (sound_file(5), "too short"),
        (sound_file(RATE * 61), "too long"),
    ],
)
def test_a_bad_clip_gets_a_message(client, content, words):
    response = client.post("/clip", content=content, headers=HEADERS)
    assert response.status_code == 400
    message = response.json()["message"]
    assert words in message
    assert "/tmp" not in message


def test_a_clip_that_is_too_large_is_refused_before_it_is_read(client, monkeypatch):
    monkeypatch.setattr("deconv1d.explore.studio.read_audio", lambda *_: pytest.fail("was read"))

    def endless():
        for _ in range(1000):
            yield b"\0" * 2**20

    response = client.post("/clip", content=endless(), headers=HEADERS)
    assert response.status_code == 413
    assert "25 MiB at most" in response.json()["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 4000, b"1" * 4000, b'{"clip": NaN}'],
)
def test_rubbish_gets_a_message(client, body):
    response = client.post("/sonify", content=body, headers=HEADERS)
    assert response.status_code == 400
    assert "cannot be read" in response.json()["message"]


def test_a_request_that_is_too_large_is_refused(client):
    response = client.post("/sonify", content=b" " * (LARGEST_REQUEST + 1), headers=HEADERS)
    assert response.status_code == 413


@pytest.mark.parametrize(
    "changes",
    [
        *({"layer": name} for name in (HOSTILE, "../../etc/passwd", "conv#9", "", 3, None, ["2"])),
        *({"channel": number} for number in (99, -1, True, 1.5, "1", None, 10**30, [0])),
        *({"method": name} for name in ("__init__", HOSTILE, None, ["mask"])),
        *({"clip": name} for name in ("../x", "/etc/passwd", HOSTILE, None, 1, {})),
        {"contrast": "yes"},
        {"more": 1},
    ],
)
def test_words_that_mean_nothing_get_a_message(client, clip, changes):
    response = ask(client, clip, **changes)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["message"]


# --- who may ask ---------------------------------------------------------------------------------

PATHS = (
    "/../pyproject.toml",
    "/..%2f..%2fetc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "//etc/passwd",
    "/static/../../etc/passwd",
    "/index.html",
    "/page.js",
    "/clip/../../etc/passwd",
    "/\\..\\..\\windows\\win.ini",
    "/etc/passwd%00.wav",
    "/sonify/" + "a/" * 500,
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_path_leads_to_a_file(client, path, method):
    response = client.request(method, path, headers=HEADERS, params={"token": TOKEN})
    assert response.status_code in (404, 405)
    assert "root:" not in response.text
    assert "[project]" not in response.text


@pytest.mark.parametrize("token", [None, "", "a-toke", "a-token ", "ä", "\0"])
def test_without_the_token_nothing_is_given(client, token):
    assert client.get("/", params={} if token is None else {"token": token}).status_code == 403
    for address in ("/start", "/clip", "/sonify"):
        header = {} if token is None else {"x-token": token.encode()}
        assert client.post(address, content=b"x", headers=header).status_code == 403
        assert client.post(f"{address}?token={TOKEN}", content=b"x").status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_other_names_of_this_machine_are_refused(client, host):
    response = client.get("/", params={"token": TOKEN}, headers={"host": host})
    assert response.status_code == 400


def test_the_page_allows_its_own_scripts_alone(client):
    response = client.get("/", params={"token": TOKEN})
    policy = response.headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert response.text.count(f'<script nonce="{nonce}">') == response.text.count("<script") == 2
    assert TOKEN not in response.text
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["referrer-policy"] == "no-referrer"


# --- the command ---------------------------------------------------------------------------------


def test_a_port_in_use_is_said(sonifier):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .*Address already in use"):
            serve(Studio(sonifier), port=port)
    with pytest.raises(InputError, match="Give another --port"):
        serve(Studio(sonifier), port=70000)


def test_a_missing_clip_ends_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models.py").write_text(FACTORIES)
    model = ["--model", "models.py:mono", "--sample-rate", "8000"]
    assert main(["explore", *model, "--audio", "nothing.wav"]) == 2
    assert "nothing.wav" in capsys.readouterr().err


@pytest.fixture
def served(tmp_path):
    """The command as a program; gives its address and itself."""
    (tmp_path / "models.py").write_text(FACTORIES)
    (tmp_path / "a.wav").write_bytes(sound_file())
    command = [sys.executable, "-m", "deconv1d", "explore", "--model", "models.py:mono"]
    command += ["--sample-rate", "8000", "--audio", "a.wav"]
    program = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield program.stderr.readline().split()[1], program
    finally:
        program.kill()
        program.wait()


def test_the_program_listens_on_loopback_survives_rubbish_and_ends(served):
    import httpx

    (whole, program) = served
    address, _, token = whole.partition("?token=")
    host, port = address.removeprefix("http://").strip("/").split(":")
    assert host == "127.0.0.1"
    for rubbish in (b"\0\1\2\3\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", os.urandom(999), b"POST /clip"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(rubbish)
    clip = httpx.post(f"{address}start", headers={"x-token": token}, timeout=60).json()
    assert clip["name"] == "a.wav"
    words = {"clip": clip["clip"], "layer": "3", "channel": 1, "method": "deconvnet"}
    began = time.perf_counter()
    found = httpx.post(
        f"{address}sonify", json={**words, "contrast": True}, headers={"x-token": token}, timeout=60
    )
    assert found.status_code == 200
    assert time.perf_counter() - began < 30
    program.send_signal(signal.SIGINT)
    said, errors = program.communicate(timeout=60)
    assert (program.returncode, said, errors) == (0, "The live page has ended.\n", "")
