"""The live page with many requests at once, with readers who leave, and how it ends."""

import io
import json
import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx")

import httpx

from deconv1d.explore.server import application, server_of

TOKEN = "a-token"
HEADERS = {"x-token": TOKEN}
SHORT, LONG = 0.02, 30  # seconds: of the stub's work, and what no test of a working page reaches


class Stub:
    """A studio that takes its time; it notes what it does, and whether two things run at once."""

    def __init__(self, *, answer="", batches=0, seconds=SHORT):
        self.done, self.together = [], False
        self._answer, self._batches, self._seconds = answer, batches, seconds
        self._lock = threading.Lock()

    def _work(self, what):
        self.together |= not self._lock.acquire(blocking=False)
        time.sleep(self._seconds)
        self.done.append(what)
        if self._lock.locked():
            self._lock.release()

    def hear(self, words):
        self._work(words["channel"])
        return {"heard": words["channel"], "sounds": self._answer}

    def take(self, content):
        raise RuntimeError("a model that fails")

    def prepare(self, key):
        self._work(f"ahead {key}")
        self._batches -= 1
        return self._batches > 0


@contextmanager
def served(studio):
    """A server in a thread, and its port; it must end soon, whatever its clients do."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = server_of(application(studio, TOKEN, hosts=["127.0.0.1"]))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(LONG)
    assert not thread.is_alive()


def request(address, body=b"", *, length=None):
    """The bytes of a request; `length` is what it says of itself."""
    size = len(body) if length is None else length
    head = f"POST {address} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Token: {TOKEN}\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


def words(channel, clip="a"):
    return json.dumps({"clip": clip, "channel": channel}).encode()


def ask(port, channel, clip="a"):
    address = f"http://127.0.0.1:{port}/sonify"
    return httpx.post(address, content=words(channel, clip), headers=HEADERS, timeout=LONG).json()


def connected(port):
    return socket.create_connection(("127.0.0.1", port), timeout=LONG)


def until(condition):
    """Waits until something has happened."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_nobody_waits_for_any_more_is_not_computed():
    """A reader walks through a menu: each request is given up for the next one."""
    studio = Stub(seconds=0.2)
    with served(studio) as port:
        for channel in range(20):
            with connected(port) as connection:
                connection.sendall(request("/sonify", words(channel)))
                time.sleep(0.005)
        assert ask(port, 99)["heard"] == 99
    heard = [one for one in studio.done if isinstance(one, int)]
    assert heard[-1] == 99
    assert len(heard) <= 3  # the one that was computed when the others came, and the last


def test_a_request_waits_for_one_batch_of_work_ahead():
    studio = Stub(batches=10**6, seconds=0.1)
    with served(studio) as port:
        for channel in range(-5, 0):
            ask(port, channel)  # each is followed by work ahead
        for channel in (1, 2, 3):
            until(lambda: studio.done[-1] == "ahead a")
            with connected(port) as connection:
                before = len(studio.done)
                connection.sendall(request("/sonify", words(channel)))
                until(lambda channel=channel: channel in studio.done)
            # The batch that was on, and others only as long as the request was on its way.
            assert studio.done.index(channel) - before <= 3
        studio._batches = 0
    assert not studio.together


def test_work_ahead_is_done_once_and_for_the_clip_that_is_heard():
    studio = Stub(batches=10**6)
    with served(studio) as port:
        for channel in range(5):
            ask(port, channel)
        ask(port, 5, clip="b")
        until(lambda: studio.done[-1] == "ahead b")
        before = len(studio.done)
        until(lambda: len(studio.done) > before + 5)
        studio._batches = 0
    # Of the first clip, the batch that was waiting when the second was heard.
    assert studio.done[before:].count("ahead a") <= 1


def test_requests_at_once_are_all_answered():
    studio = Stub(batches=50, seconds=0.001)
    answers = []
    with served(studio) as port:
        threads = [
            threading.Thread(target=lambda c=c: answers.append(ask(port, c)["heard"]))
            for c in range(60)  # more than there are threads for requests
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert sorted(answers) == list(range(60))
    assert not studio.together


@pytest.mark.parametrize("kind", ["takes no answer", "sends half a clip", "sends nothing"])
def test_the_server_ends_whatever_its_clients_do(kind, monkeypatch):
    monkeypatch.setattr("deconv1d.explore.server.SECONDS_TO_END", 0.2)
    studio = Stub(answer="x" * 2**24)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with served(studio) as port:
            connection.connect(("127.0.0.1", port))
            if kind == "takes no answer":
                connection.sendall(request("/sonify", words(1)))
                until(lambda: studio.done)
            elif kind == "sends half a clip":
                connection.sendall(request("/clip", b"half", length=1000))
            time.sleep(0.05)
            began = time.monotonic()
        assert time.monotonic() - began < 5


def test_half_sent_clips_are_no_errors(capsys):
    with served(Stub()) as port:
        for _ in range(3):
            with connected(port) as connection:
                connection.sendall(request("/clip", b"half", length=1000))
                time.sleep(0.02)
        assert ask(port, 1)["heard"] == 1
    assert capsys.readouterr().err == ""


def test_a_terminal_that_nobody_reads_keeps_nobody_waiting(monkeypatch):
    """A program that started the page may read its address alone: the pipe fills with errors."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writes, bytes(2**16))
    os.set_blocking(writes, True)
    full = io.TextIOWrapper(os.fdopen(writes, "wb", 0), write_through=True)
    with served(Stub()) as port, monkeypatch.context() as patch, connected(port) as connection:
        patch.setattr(sys, "stderr", full)
        connection.sendall(request("/clip", b"a clip"))
        time.sleep(0.1)
        assert ask(port, 1)["heard"] == 1
        os.read(reads, 2**20)
        connection.settimeout(LONG)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    full.close()
    os.close(reads)
