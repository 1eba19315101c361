"""A server of small models in this process, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albef_ds.inference.model import AlbefModel
from albef_ds.inference.serving.gallery import Gallery
from albef_ds.inference.serving.service import Load, Service


@dataclass
class Served:
    """A running server."""

    port: int
    photos: Path
    gallery: Gallery
    token: str = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, and body; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = ({"Content-Type": "application/json"} if method == "POST" else {}) | (headers or {})
        try:
            connection.request(method, path, content, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, path: str, body: Any = None, status: int = 200) -> Any:
        """The decoded answer; GET without a body."""
        found, _, content = self.request("GET" if body is None else "POST", path, body)
        assert found == status, content
        return json.loads(content)

    def search(self, *terms: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self.json("/api/search", {"terms": list(terms), **options})["hits"]
        return hits

    def refusal(self, path: str, body: Any, status: int = 400) -> str:
        """The one line of an error."""
        answer = self.json(path, body, status)
        assert list(answer) == ["error"] and len(answer["error"].splitlines()) == 1
        return str(answer["error"])

    def key(self, name: str) -> str:
        return self.names()[name]

    def names(self) -> dict[str, str]:
        """Name -> key of the images that are shown."""
        now = self.gallery.now
        return {now.name(place): key for key, place in now.places.items()}


@contextlib.contextmanager
def serving(
    model: AlbefModel,
    photos: Path,
    *,
    answering: AlbefModel | None = None,
    token: str = "",
    load: Load | None = None,
    limits: Any = None,
    head_seconds: float = 10.0,
) -> Iterator[Served]:
    """A server that has indexed `photos`."""
    from albef_ds.inference.serving.app import application
    from albef_ds.inference.serving.guard import Guard
    from albef_ds.inference.serving.server import listen, names_of, server_of

    gallery = Gallery(model, [photos])
    service = Service(model, gallery, answering, load)
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        server = server_of(Guard(application(service), names_of("127.0.0.1", port), token, limits), head_seconds)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        service.start()
        thread.start()
        try:
            wait_for(lambda: server.started and gallery.version > 0)
            yield Served(port, photos, gallery, token)
        finally:
            server.should_exit = True
            service.close()
            thread.join()


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)
