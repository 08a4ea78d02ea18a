"""Who may talk to the simulator's page: this machine's browser that was given the token, and nobody else.

* The server listens on 127.0.0.1. A `Host` that is not this address is refused, so that a name that was made
  to point here (DNS rebinding) reaches nothing.
* Everything but the first address needs the token, in a cookie that scripts cannot read and other sites
  cannot send; the address with the token in it leads on to one without.
* A request that changes nothing may only be read by us: no CORS, and POST has to come from our own origin.
* Answers say what a browser may load: our files, no inline script, no frame, nothing from elsewhere.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Refusal(Exception):
    """A request that gets an error page: status, stable code, words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Guard:
    """ASGI middleware that lets in what the module's page says.

    Args:
        app: what is guarded.
        token: the secret.
        port: where the server listens.
        refuse: makes the answer to a refused request.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, refuse: Refuser) -> None:
        self._app, self._token, self._refuse = app, token, refuse
        self._cookie = f"pocketrec-{port}"  # cookies know no ports
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no web sockets here

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            answer = self._check(scope)
        except Refusal as refusal:
            answer = self._refuse(scope, refusal)
        if answer is not None:
            await answer(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _check(self, scope: Scope) -> Response | None:
        """An answer to give at once; None lets the request through."""
        headers = Headers(scope=scope)
        if headers.get("host", "") not in self._hosts:
            raise Refusal(421, "host-refused", "this server answers to its own address only.")
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and scope["method"] == "GET" and given:
            self._same(given)
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        self._same(cookie_parser(headers.get("cookie", "")).get(self._cookie, ""))
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and origin.removeprefix("http://") not in self._hosts:
                raise Refusal(403, "origin-refused", "another site may not ask this server for anything.")
            if headers.get("content-type", "").partition(";")[0] != "application/json":
                raise Refusal(415, "type-refused", "send application/json.")
            size = headers.get("content-length", "")
            if not size.isdecimal() or int(size) > MAX_BODY:
                raise Refusal(413, "too-large", f"send at most {MAX_BODY} bytes, and say how many.")
        return None

    def _same(self, given: str) -> None:
        # In constant time, so that no timing says how much of a guess was right.
        if not secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode()):
            raise Refusal(403, "token-wrong", "open the address that `pocketrec simulate --serve` printed.")


class Refuser:
    """What makes the answer to a refused request."""

    def __call__(self, scope: Scope, refusal: Refusal) -> Response:
        """The answer."""
        raise NotImplementedError


_offline = threading.local()
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")
_hooked = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in _NETWORK and getattr(_offline, "on", False):
        _offline.tries += 1
        raise OSError(f"this phone is offline: {event} {arguments[-1]!r}")


class Tries:
    """How often something asked for the network while it was off."""

    count = 0


@contextmanager
def no_network() -> Iterator[Tries]:
    """Inside, whatever Python code of this thread asks of the network is refused, and counted.

    Other threads, such as the one that serves the page, go on as they were. (A native library that opens
    sockets itself is not seen by an audit hook; tests/sdk/test_nothing_leaves.py looks at the system calls.)
    """
    global _hooked  # noqa: PLW0603
    if not _hooked:
        sys.addaudithook(_watch)
        _hooked = True
    tries = Tries()
    _offline.on, _offline.tries = True, 0
    try:
        yield tries
    finally:
        _offline.on = False
        tries.count = _offline.tries
