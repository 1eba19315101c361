"""A small Hub on this machine: the endpoints that huggingface_hub calls to make a repository, to upload and to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories with one branch; every commit is kept."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        """Repository -> commit -> path -> content, in order."""
        self.asked: list[str] = []
        """Method and path of each request."""
        self.address = ""

    def add(self, repository: str, files: dict[str, bytes]) -> str:
        commits = self.commits.setdefault(repository, {})
        number = self.number(repository, len(commits))
        commits[number] = {**(list(commits.values())[-1] if commits else {}), **files}
        return number

    @staticmethod
    def number(repository: str, place: int) -> str:
        """The number of a repository's commit at a place from 0."""
        return hashlib.sha1(f"{repository}{place}".encode()).hexdigest()

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.commits.get(repository, {})
        number = list(commits)[-1] if commits and revision == "main" else revision
        return (number, commits[number]) if number in commits else None


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._get(body=False)

    def do_GET(self) -> None:
        self._get(body=True)

    def _get(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = "/".join(parts[2:4])
            found = self.hub.find(repository, parts[5] if len(parts) > 5 else "main")
            if found is None:
                self._missing(repository)
                return
            number, files = found
            entries = [_entry(name, content) for name, content in files.items()]
            info = {
                "id": repository,
                "modelId": repository,
                "sha": number,
                "siblings": [{"rfilename": e["path"]} for e in entries],
            }
            self._send(200, json.dumps(entries if len(parts) > 4 and parts[4] == "tree" else info).encode(), body=body)
            return
        if len(parts) > 4 and parts[2] == "resolve":
            found = self.hub.find("/".join(parts[:2]), parts[3])
            name = "/".join(parts[4:])
            if found and name in found[1]:
                content = found[1][name]
                headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": found[0], "Accept-Ranges": "bytes"}
                self._send(200, content, body=body, **headers)
                return
        self._missing("/".join(parts[:2]))

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"POST {path}")
        content = self._body()
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            asked = json.loads(content)
            repository = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if self.headers.get("authorization") != "Bearer hf_right":
                self._send(401, b'{"error": "Invalid credentials"}')
                return
            self.hub.add(repository, {".gitattributes": b""})
            self._send(200, json.dumps({"url": f"{self.hub.address}/{repository}", "name": repository}).encode())
        elif parts[-2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(content)["files"]
            ]
            self._send(200, json.dumps({"files": files}).encode())
        elif parts[-2] == "commit":
            repository, files = "/".join(parts[2:4]), {}
            for line in content.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            number = self.hub.add(repository, files)
            answer = {"commitUrl": f"{self.hub.address}/{repository}/commit/{number}", "commitOid": number, "success": True}
            self._send(200, json.dumps(answer).encode())
        else:
            self._send(200, json.dumps({"type": "user", "name": "tester"}).encode())

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _missing(self, repository: str) -> None:
        code = "RevisionNotFound" if repository in self.hub.commits else "RepoNotFound"
        self._send(404, b"{}", **{"X-Error-Code": code})

    def _send(self, status: int, content: bytes, *, body: bool = True, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
