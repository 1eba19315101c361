"""Refuses requests that a server on one's own machine should not answer, before any of the application runs.

It checks the host (a foreign name may point here: DNS rebinding), the origin (other web pages), the token, the method, and the
size and speed of a body, which it reads whole. Every response gets headers that keep the page to itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from albef_ds.common.html import STYLE

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "albef_token"
_STYLE = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; script-src 'self'; style-src 'self' 'sha256-{_STYLE}'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""Are part of every response; the style is that of the pages of `common/html.py`."""


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    body_bytes: int = 24 * 2**20
    body_seconds: float = 20.0
    """Time for a whole body to arrive, and for each part of a response to be taken."""


class RefusedError(Exception):
    """The request is answered with `status` and `reason`."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Guard:
    """ASGI application around `app`.

    Args:
        app: sees only requests that pass.
        hosts: allowed values of the Host header, lower case; None: any (then there is a token).
        token: what a request must carry, as `Authorization: Bearer TOKEN`, as the cookie that `/?token=TOKEN` sets; empty: none.
        limits: of one request.
    """

    def __init__(self, app: Application, hosts: frozenset[str] | None, token: str = "", limits: Limits | None = None) -> None:
        self._app, self._hosts, self._token, self._limits = app, hosts, token, limits or Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            return  # no websockets, no lifespan
        answer = _Answer(send, self._limits.body_seconds)
        try:
            headers = _headers(scope)
            self._check(scope, headers)
            if given := self._token_in_address(scope):
                await answer.redirect(given)
                return
            self._check_token(headers)
            body = await _body(headers, receive, self._limits) if scope["method"] == "POST" else b""
            await self._app(scope, _replayed(body, receive), answer.send)
        except RefusedError as error:
            if answer.begun:
                raise
            await answer.refuse(error)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, f"the method {scope['method']} is not used here")
        host = headers.get("host", "").lower()
        if self._hosts is not None and host not in self._hosts:
            raise RefusedError(421, "this server does not have the name in the Host header: use the address that it printed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host:
            raise RefusedError(403, "requests of other web pages are refused")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise RefusedError(403, "requests of other web pages are refused")
        if scope["method"] == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "the body is not JSON: send it as application/json")

    def _token_in_address(self, scope: Scope) -> str:
        if not self._token or scope["method"] != "GET" or scope["path"] != "/" or not scope["query_string"]:
            return ""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        return self._token if _equal(given, self._token) else ""

    def _check_token(self, headers: dict[str, str]) -> None:
        if not self._token:
            return
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(value.strip(), self._token):
            return
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is None or not _equal(cookie.value, self._token):
            raise RefusedError(401, "a token is needed: open the address that the server printed, or send it as a bearer token")


class _Answer:
    """Sends a response with the common headers, each part within a time limit."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds, self.begun = send, seconds, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            named = [(name, value) for name, value in message.get("headers", []) if name.lower() not in dict(HEADERS)]
            message = {**message, "headers": [*named, *HEADERS]}
        await asyncio.wait_for(self._send(message), self._seconds)

    async def refuse(self, error: RefusedError) -> None:
        body = json.dumps({"error": error.reason}).encode()
        # The rest of a body that is not read would be taken for the next request.
        await self._whole(error.status, [(b"content-type", b"application/json"), (b"connection", b"close")], body)

    async def redirect(self, token: str) -> None:
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict"
        await self._whole(303, [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1"))], b"")

    async def _whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        headers = [*headers, (b"content-length", str(len(body)).encode()), (b"cache-control", b"no-store")]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name. Raises `RefusedError` if one that is checked is given twice."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in found and key in ("host", "origin", "content-length", "content-type", "authorization"):
            raise RefusedError(400, f"the header {key} is given twice")
        found[key] = value.decode("latin-1")
    return found


async def _body(headers: dict[str, str], receive: Receive, limits: Limits) -> bytes:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > limits.body_bytes:
        raise RefusedError(413, f"the request is larger than {limits.body_bytes // 2**20} MiB")
    parts: list[bytes] = []
    size = 0

    async def read() -> None:
        nonlocal size
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the request ended early")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limits.body_bytes:
                raise RefusedError(413, f"the request is larger than {limits.body_bytes // 2**20} MiB")
            if not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(read(), limits.body_seconds)
    except (TimeoutError, asyncio.TimeoutError):
        raise RefusedError(408, f"the request did not arrive within {limits.body_seconds:g} s") from None
    return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` once and then waits for the end of the connection."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8", "replace"))
