"""Attacks on a server, each refused; docs/serving.md has a row for each."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from albef_ds.cli.main import main
from albef_ds.inference.model import AlbefModel
from tests.inference.serving.conftest import photos_in
from tests.inference.serving.served import Served, serving
from tests.inference.tiny_models import picture

Models = tuple[AlbefModel, AlbefModel]
ROOT = Path(__file__).resolve().parents[3]
SEARCH = {"terms": [{"text": "a cup"}], "rerank": 0}
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def strict(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With a token, small bodies and little patience."""
    pytest.importorskip("fastapi")
    from albef_ds.inference.serving.guard import Limits

    limits = Limits(body_bytes=50_000, body_seconds=0.5)
    with serving(
        models[0], photos_in(tmp_path_factory.mktemp("strict")), token=TOKEN, limits=limits, head_seconds=0.5
    ) as running:
        yield running


def status_of(served: Served, method: str, path: str, body: Any = None, **headers: str) -> int:
    return served.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})[0]


# Other web pages


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_for_this_machine_is_refused(served: Served, host: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(f"GET /api/status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] in (b"421", b"400")


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "null", "http://127.0.0.1:1", "file://"])
def test_requests_of_another_origin_are_refused(served: Served, origin: str) -> None:
    assert status_of(served, "POST", "/api/search", SEARCH, Origin=origin) == 403
    assert status_of(served, "POST", "/api/search", SEARCH, Origin=f"http://127.0.0.1:{served.port}") == 200


def test_cross_site_requests_are_refused_also_for_images(served: Served) -> None:
    for site in ("cross-site", "same-site"):
        assert status_of(served, "GET", f"/api/pictures/{served.key('0.png')}", Sec_Fetch_Site=site) == 403
    assert status_of(served, "GET", "/", Sec_Fetch_Site="none") == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_page_cannot_ask(served: Served, kind: str) -> None:
    assert status_of(served, "POST", "/api/search", SEARCH, Content_Type=kind) == 415


@pytest.mark.parametrize("method", ["OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT"])
def test_other_methods_are_refused(served: Served, method: str) -> None:
    status, headers, _ = served.request(method, "/api/search")
    assert status == 405 and "access-control-allow-origin" not in headers


def test_every_answer_keeps_the_page_to_itself(served: Served) -> None:
    for path in ("/", "/page.js", "/api", "/api/status", "/absent", f"/api/pictures/{served.key('0.png')}"):
        headers = served.request("GET", path)[1]
        assert (
            "frame-ancestors 'none'" in headers["content-security-policy"]
            and "default-src 'none'" in headers["content-security-policy"]
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers


# Files


@pytest.mark.parametrize(
    "path",
    [
        "/api/pictures/../../../../etc/passwd",
        "/api/pictures/..%2f..%2f..%2fetc%2fpasswd", "/api/pictures/%2e%2e/%2e%2e/etc/passwd",
        "/api/pictures//etc/passwd", "/api/pictures/0.png", "/api/pictures/%00", "/api/pictures/" + "0" * 24,
        "/..%2fapp.py", "//etc/passwd",
        "/page.js/../app.py", "/static/page.js", "/api/pictures/" + "a" * 5000, "/.albef-index.safetensors",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(served: Served, path: str) -> None:
    status, _, body = served.request("GET", path)
    assert status in (400, 404) and b"root:" not in body and len(body) < 500


def test_a_link_out_of_the_folder_is_not_shown(models: Models, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    photos, secret = photos_in(tmp_path), tmp_path / "secret.png"
    picture(50).save(secret)
    (photos / "link.png").symlink_to(secret)
    (photos / "away").symlink_to(tmp_path)
    with serving(models[0], photos) as running:
        assert not {"link.png", "away/secret.png"} & set(running.names())
        key = running.key("1.png")
        (photos / "1.png").unlink()
        (photos / "1.png").symlink_to(secret)  # between the index and the request
        assert running.request("GET", f"/api/pictures/{key}")[0] == 400
        assert "no such image" in running.refusal("/api/ground", {"picture": key, "text": "cup"})


# Bodies


def _png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _uploads() -> dict[str, bytes]:
    whole = io.BytesIO()
    picture(1, 200, 200).save(whole, "JPEG")
    return {
        "a bomb": _png(60_000, 60_000),
        "a little too large": _png(8_000, 8_000),
        "cut off": whole.getvalue()[: len(whole.getvalue()) // 2],
        "damaged": whole.getvalue()[:100] + os.urandom(500),
        "empty": b"",
        "text": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
        "no pixels": _png(0, 0),
    }


@pytest.mark.parametrize("kind", _uploads())
def test_an_upload_that_is_no_image_is_refused_in_one_line(served: Served, kind: str) -> None:
    text = base64.b64encode(_uploads()[kind]).decode()
    assert re.search("usable|image", served.refusal("/api/search", {"terms": [{"image": text}]}))
    assert served.search({"text": "a cup"}, rerank=0)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"terms": []}', b'{"terms": [{}]}', b'{"terms": [{"text": ""}]}',
        b'{"terms": [{"text": "\\u0000"}]}', b'{"terms": [{"text": "\\ud800"}]}', b'{"terms": [{"text": "?!"}]}',
        b'{"terms": 1e999}',
        b"[" * 40_000, b'{"terms": [{"text": "a", "wanted": "maybe"}]}', b'{"terms": [{"image": "****"}]}',
        b'{"terms": [{"picture": "../../etc/passwd"}]}', b'{"terms": [{"picture": "%s"}]}' % (b"0" * 24),
        b'{"terms": [{"text": "a cup"}], "top": 0}', b'{"terms": [{"text": "a cup"}], "rerank": 100000000}',
        b'{"terms": [{"text": "a cup"}], "top": NaN}', b'{"terms": [{"text": "a cup"}], "more": 1}',
        json.dumps({"terms": [{"text": "a cup"}] * 9}).encode(), json.dumps({"terms": [{"text": "a" * 1001}]}).encode(),
    ],
)  # fmt: skip
def test_a_malformed_query_is_refused_in_one_line(served: Served, body: bytes) -> None:
    status, _, content = served.request("POST", "/api/search", body)
    assert status == 400
    error = json.loads(content)["error"]
    assert len(error.splitlines()) == 1 and len(error) < 400 and "Traceback" not in error
    assert served.search({"text": "a cup"}, rerank=0)


def test_a_body_too_large_is_refused_before_it_is_read(strict: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        head = _head(strict, "Content-Length: 900000000000")
        connection.sendall(head)
        assert connection.makefile("rb").readline().split()[1] == b"413"
    status, _, body = strict.request("POST", "/api/search", b"x" * 50_001, headers)
    assert (status, json.loads(body)["error"]) == (413, "the request is larger than 0 MiB")


def test_a_body_in_pieces_without_a_length_is_bounded_too(strict: Served) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.sendall(_head(strict, "Transfer-Encoding: chunked"))
        for _ in range(6):
            connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        assert connection.makefile("rb").readline().split()[1] == b"413"


@pytest.mark.parametrize("lines", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: -1", "Content-Length: x"])
def test_an_odd_length_is_refused(strict: Served, lines: str) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.sendall(_head(strict, lines) + b"{}")
        assert connection.makefile("rb").readline().split()[1] in (b"400", b"413")


def _head(served: Served, line: str) -> bytes:
    lines = [f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1:{served.port}", f"Authorization: Bearer {TOKEN}"]
    return "\r\n".join([*lines, "Content-Type: application/json", line, "", ""]).encode()


# Slow clients


def test_a_head_that_does_not_end_is_closed(strict: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", strict.port)) as silent,
        socket.create_connection(("127.0.0.1", strict.port)) as slow,
    ):
        slow.sendall(b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1")
        for connection in (silent, slow):
            connection.settimeout(60)
        assert [connection.recv(1) for connection in (silent, slow)] == [b"", b""]


def test_a_second_request_that_does_not_end_is_closed(strict: Served) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.settimeout(60)
        connection.sendall(
            f"GET /absent HTTP/1.1\r\nHost: 127.0.0.1:{strict.port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\nGET /".encode()
        )
        content = b""
        while part := connection.recv(1 << 16):
            content += part
        assert content.startswith(b"HTTP/1.1 404")


def test_a_body_that_does_not_arrive_is_given_up(strict: Served) -> None:
    with socket.create_connection(("127.0.0.1", strict.port)) as connection:
        connection.settimeout(60)
        connection.sendall(_head(strict, "Content-Length: 100") + b'{"terms"')
        assert connection.makefile("rb").readline().split()[1] == b"408"


# Other people


def test_without_the_token_nothing_is_answered(strict: Served) -> None:
    for path in ("/", "/api", "/api/status", "/openapi.json", "/page.js", f"/api/pictures/{strict.key('0.png')}"):
        assert status_of(strict, "GET", path) == 401
    for headers in (
        {"Authorization": "Bearer wrong"},
        {"Cookie": "albef_token=wrong"},
        {"Authorization": "Bearer "},
        {"Cookie": "=;;=\x01"},
    ):
        assert strict.request("GET", "/api/status", headers=headers)[0] == 401
    for query in ("?token=wrong", "?token=", "?token"):
        assert status_of(strict, "GET", f"/{query}") == 401
    assert status_of(strict, "GET", "/api/status", Authorization=f"Bearer {TOKEN}") == 200


def test_the_token_in_the_address_becomes_a_cookie(strict: Served) -> None:
    status, headers, _ = strict.request("GET", f"/?token={TOKEN}")
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert status_of(strict, "GET", "/api/status", Cookie=cookie.partition(";")[0]) == 200


def test_other_machines_are_let_in_with_a_token_only(models: Models, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastapi")
    photos = photos_in(tmp_path)
    serve = ["serve", "--model", "none", "--images", str(photos), "--host", "0.0.0.0", "--port", "0"]
    assert main(serve) == 2
    assert "add --token-file FILE" in capfd.readouterr().err
    (tmp_path / "short").write_text("abc\n")
    assert main([*serve, "--token-file", str(tmp_path / "short")]) == 2
    assert "holds no token of 16" in capfd.readouterr().err
    assert main([*serve, "--token-file", str(tmp_path / "made")]) == 2  # there is no such model
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600 and len((tmp_path / "made").read_text().strip()) == 32


def test_the_page_of_the_documentation_has_a_row_for_each_attack() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    tests = re.findall(r"^def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(test_\w+)`", page)) == set(tests) - {"test_the_page_of_the_documentation_has_a_row_for_each_attack"}


def test_a_heavy_image_of_the_gallery_is_not_decoded(models: Models, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    photos = photos_in(tmp_path)
    (photos / "bomb.png").write_bytes(_png(60_000, 60_000))
    Image.new("1", (3, 3)).save(photos / "tiny.png")
    with serving(models[0], photos) as running:
        assert "bomb.png" in [name for name, _ in running.gallery.now.unreadable] and running.key("tiny.png")
