"""The live page's server: on this machine alone, for whoever has the address with its token.

Browsers let any page send requests to 127.0.0.1. Three things keep other pages out: the token,
which only the printed address has and which is sent as a header; the names of the host, which must
be this machine's own (a foreign name that points to 127.0.0.1 is refused); and no permission for
other origins. No path of a request leads to a file: there are four addresses, all in this module.

The model does one thing at a time, in the order in which it was asked for (`_Turns`):

    request A     computes ......
    request B                     computes ...
    request C     (its page asked for another channel meanwhile: dropped, not computed)
    work ahead                                 one batch .. one batch ..
    request D                                              waits for one batch, then computes

Locks, the outer first; whoever holds one takes only those below it:

    `_Turns`                of the event loop: a request, or a batch of work ahead
    `Studio._lock`          of threads: the same, also in a notebook, where there are no turns
    `FORWARD_LOCK`          a forward pass, one for the process (`deconv1d.record.unchanged`)
    the recorder's          one op of the pass: a model may run ops in threads of its own
    `Mirrors._lock`         a look at the kept mirrors; nothing is computed while it is held
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deconv1d.errors import DependencyError, InputError
from deconv1d.explore.studio import LARGEST_CLIP, Studio, message_of
from deconv1d.templates import rendered

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = "127.0.0.1"
LARGEST_REQUEST = 4096  # bytes
SECONDS_TO_END = 2
"""After Ctrl-C: so long requests have to end by themselves. One whose browser takes no answer, or
never sends the rest of its clip, would keep the program for ever."""
GONE = 499  # as other servers note it: whoever asked has left
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
    "media-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class TooLarge(InputError):
    """The body of a request is larger than it may be."""


def application(
    studio: Studio, token: str, *, start: dict[str, Any] | None = None, hosts: list[str]
) -> Starlette:
    """Makes the server's application.

    Args:
        studio: What computes.
        token: What a request must have: the page in its address, all others in a header.
        start: A clip to begin with, as `Studio.take` returns it.
        hosts: The names under which a browser may ask for it; ["*"]: any.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    turns = _Turns()

    def hear(body: bytes) -> Any:
        return studio.hear(_json(body))

    async def prepare(body: bytes) -> None:
        # After an answer: `hear` has read this body already, so that it is JSON with a clip.
        await turns.work_ahead(_json(body)["clip"], studio.prepare)

    answers = {
        "/start": _answering(token, 0, turns, lambda _: start or {}),
        "/clip": _answering(token, LARGEST_CLIP, turns, studio.take),
        "/sonify": _answering(token, LARGEST_REQUEST, turns, hear, after=prepare),
    }
    routes = [Route(address, answer, methods=["POST"]) for address, answer in answers.items()]
    routes.append(Route("/", _page_for(token), methods=["GET"]))
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return Starlette(routes=routes, middleware=[trusted])


def _page_for(token: str) -> Callable[[Request], Response]:
    """Gives the page to a request with the token."""
    from starlette.responses import HTMLResponse

    def page(request: Request) -> Response:
        if not _same(request.query_params.get("token"), token):
            text = "Open the whole address that the terminal shows: it ends in a token."
            return _answer({"message": text}, 403)
        nonce = secrets.token_urlsafe(16)
        # Scripts of this page alone run: whatever else gets into it does not know the nonce.
        html = rendered("explore.html", title="Listen to a network", nonce=nonce)
        policy = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(html, headers=HEADERS | policy)

    return page


class _Turns:
    """One piece of work at a time, in a thread; who came first is served first.

    The lock is the event loop's and not the studio's. A lock of threads is not fair: on a busy
    machine work ahead could take it again before a request that waits for it has woken. And a
    request that waits for it keeps a thread, and cannot be dropped.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._ahead = ""

    async def work(self, request: Request, work: Callable[[bytes], Any], body: bytes) -> Any:
        """What the work makes of a request's body.

        Raises:
            _Gone: If whoever asked has left before its turn.
        """
        from starlette.concurrency import run_in_threadpool

        async with self._lock:
            # Only now: whoever waits in vain leaves while others are served.
            if await request.is_disconnected():
                raise _Gone
            return await run_in_threadpool(work, body)

    async def work_ahead(self, clip: str, batch: Callable[[str], bool]) -> None:
        """Works for a clip, a batch a turn, until all is done or the reader has another clip."""
        from starlette.concurrency import run_in_threadpool

        if clip == self._ahead:  # an earlier answer's is on: two would make requests wait twice
            return
        self._ahead, going = clip, True
        try:
            while going and self._ahead == clip:
                async with self._lock:
                    going = await run_in_threadpool(batch, clip)
        finally:
            # Another clip may have taken over: then it is its own work that goes on.
            if self._ahead == clip:
                self._ahead = ""


class _Gone(Exception):
    """Whoever sent a request has left."""


def _answering(
    token: str,
    most: int,
    turns: _Turns,
    work: Callable[[bytes], Any],
    after: Callable[[bytes], Awaitable[None]] | None = None,
) -> Callable[[Request], Any]:
    """Answers requests that have the token with what the work makes of their bodies.

    Args:
        token: As for `application`.
        most: Bytes that a body may have.
        turns: Of all requests.
        work: From a body to the answer's facts; it runs in a thread.
        after: What is done with the body when the answer was sent.
    """
    from starlette.background import BackgroundTask
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect

    async def answer_to(request: Request) -> Response:
        # First: without the token nobody makes this program take 25 MiB into memory.
        if not _same(request.headers.get("x-token"), token):
            return _answer({"message": "The token is missing. Open the address again."}, 403)
        try:
            body = await _body(request, most)
            facts = await turns.work(request, work, body)
        except (ClientDisconnect, _Gone):
            return _answer({"message": "Nobody waits for this answer any more."}, GONE)
        except TooLarge as error:
            return _answer({"message": str(error)}, 413)
        except Exception as error:
            if not isinstance(error, InputError | OSError | LookupError):
                # In a thread: where nobody reads the terminal's end of a pipe, writing waits.
                await run_in_threadpool(traceback.print_exception, error)
            return _answer({"message": message_of(error)}, 400)
        response = _answer(facts)
        response.background = None if after is None else BackgroundTask(after, body)
        return response

    return answer_to


def _same(given: str | None, token: str) -> bool:
    """Whether the token was given; how long it takes says nothing of the token."""
    # As bytes: of text it takes ASCII alone, and a browser may send anything.
    return secrets.compare_digest((given or "").encode(), token.encode())


def _answer(facts: Any, status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(facts, status, headers=HEADERS)


async def _body(request: Request, most: int) -> bytes:
    """Reads a request's body, and stops where it is larger than it may be."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise TooLarge(
                f"Too much was sent: expected {most / 2**20:.3g} MiB at most, got more. Cut the "
                f"recording, or compress it."
            )
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # brackets that are nested thousands deep
        raise InputError("The request cannot be read: expected JSON, got something else.") from None


def serve(
    studio: Studio, *, host: str = LOOPBACK, port: int = 0, start: dict[str, Any] | None = None
) -> None:
    """Serves the live page until Ctrl-C.

    Args:
        studio: What computes.
        host: Where to listen; anything but 127.0.0.1 lets other machines in, with the token.
        port: 0: a free one.
        start: A clip to begin with, as `Studio.take` returns it.

    Raises:
        InputError: If the port is in use or may not be used.
        DependencyError: If starlette or uvicorn is not installed.
    """
    try:
        import starlette  # noqa: F401  # `application` needs it
        import uvicorn  # noqa: F401  # `server_of` needs it
    except ImportError as error:
        raise DependencyError(
            f"The live page cannot be served: expected starlette and uvicorn, got {error}. Install "
            f"them: pip install 'deconv1d[explore]'"
        ) from error
    listening = _listening(host, port)
    token = secrets.token_urlsafe(24)
    hosts = [LOOPBACK, "localhost"] if host == LOOPBACK else ["*"]
    address = f"http://{host}:{listening.getsockname()[1]}/?token={token}"
    print(f"Open {address} in a browser; Ctrl-C ends it.", file=sys.stderr, flush=True)
    # The server ends by itself and then raises Ctrl-C again, which would be an error here.
    with suppress(KeyboardInterrupt):
        server_of(application(studio, token, start=start, hosts=hosts)).run(sockets=[listening])


def server_of(made: Starlette) -> uvicorn.Server:
    """The server of an application; Ctrl-C ends it, whatever its clients do.

    Args:
        made: From `application`.
    """
    import uvicorn

    config = uvicorn.Config(
        made,
        log_level="critical",  # requests that are no HTTP are answered with 400: not worth a line
        access_log=False,
        lifespan="off",  # there is nothing to start or to end with the server
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    """Takes the port before anything else, so that a port in use is said at once."""
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"The live page cannot be served on port {port} of {host!r}: expected a free port, got "
            f"{getattr(error, 'strerror', None) or error}. Give another --port, or 0 for any."
        ) from error
