"""Listens on a port and serves an application with uvicorn, with a time limit for slow clients."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from albef_ds.common.errors import MachineError

HEAD_SECONDS = 10.0
"""Time for the head of a request to arrive."""
_CONNECTIONS = 1024
_HEAD_BYTES = 32 * 1024
_NOTHING_YET = object()


def is_local(host: str) -> bool:
    """Returns whether `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `port`, or on a free port for 0. Raises `MachineError` if it is taken or there is no such host."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise MachineError(
            f"host {host} is not known ({getattr(error, 'strerror', error)}): give an address of this machine"
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise MachineError(f"port {port} of {host} cannot be used ({error.strerror}): give another one") from None
    return listener


def names_of(host: str, port: int) -> frozenset[str]:
    """The values of a Host header that mean this server: those of this machine, and `host`."""
    bare = [f"[{host}]" if ":" in host else host.lower(), "127.0.0.1", "localhost", "[::1]"]
    return frozenset(f"{name}:{port}" for name in bare) | (frozenset(bare) if port == 80 else frozenset())


def server_of(app: Any, head_seconds: float = HEAD_SECONDS) -> uvicorn.Server:
    """A uvicorn server of `app`: HTTP/1.1 only, no log of requests, and `head_seconds` for a request's head."""

    protocol: Any = functools.partial(_prompt, head_seconds)  # a class is expected, and called in the same way

    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _prompt(seconds: float, **arguments: Any) -> PromptProtocol:
    return PromptProtocol(seconds, lambda: H11Protocol(**arguments))


class PromptProtocol(asyncio.Protocol):
    """Closes a connection on which no whole head of a request arrives in time: uvicorn itself would wait for ever.

    Passes everything to the protocol that `make` returns; its `cycle` is the request in progress.
    """

    def __init__(self, seconds: float, make: Callable[[], Any]) -> None:
        self._seconds, self._inner = seconds, make()
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the clock."""
        self._transport = transport
        self._inner.connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Passes bytes on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Passes the end of the client's side on."""
        ended: bool | None = self._inner.eof_received()
        return ended

    def connection_lost(self, error: Exception | None) -> None:
        """Stops the clock."""
        if self._timer is not None:
            self._timer.cancel()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """Passes on that the client does not read."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Passes on that the client reads again."""
        self._inner.resume_writing()

    def _watch(self, before: Any = _NOTHING_YET) -> None:
        """Closes the connection if no request has begun since the last look and none is being answered."""
        cycle = self._inner.cycle
        if cycle is before and (cycle is None or cycle.response_complete) and self._transport is not None:
            self._transport.close()
            return
        self._timer = asyncio.get_running_loop().call_later(self._seconds / 2, self._watch, cycle)
