"""The application: the page, its files and the JSON endpoints, over a `Service` that does the work.

Requests that should not be answered at all are refused before (`guard.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import albef_ds
from albef_ds.common.errors import UserError
from albef_ds.inference.serving.messages import (
    AskRequest,
    AskResponse,
    Failure,
    GroundRequest,
    GroundResponse,
    PictureSize,
    SearchRequest,
    SearchResponse,
    Status,
)
from albef_ds.inference.serving.reference import reference_page
from albef_ds.inference.serving.service import Service
from albef_ds.inference.serving.worker import BusyError, LateError

STATIC = Path(__file__).with_name("static")
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "The request cannot be used"},
    503: {"model": Failure, "description": "Too many requests wait"},
    504: {"model": Failure, "description": "The time limit of a request has passed"},
}
NO_STORE = {"Cache-Control": "no-store"}


def application(service: Service) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(title="albef-ds serve", version=albef_ds.__version__, docs_url=None, redoc_url=None)
    for name, path in (("page.html", "/"), ("page.css", "/page.css"), ("page.js", "/page.js")):
        app.add_api_route(path, _file(name), include_in_schema=False)

    async def reference() -> HTMLResponse:
        return HTMLResponse(reference_page(app.openapi()))

    app.add_api_route("/api", reference, include_in_schema=False)

    async def status() -> Status:
        return service.status()

    async def search(request: SearchRequest) -> SearchResponse:
        return await service.search(request)

    async def ground(request: GroundRequest) -> GroundResponse:
        return await service.ground(request)

    async def ask(request: AskRequest) -> AskResponse:
        return await service.ask(request)

    async def picture(key: str, size: PictureSize = 320) -> Response:
        content = await service.picture(key, size)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})

    _endpoint(app, "GET", "/api/status", status, Status, "What the server has, and how far its index is")
    _endpoint(app, "POST", "/api/search", search, SearchResponse, "Rank the images by words and images, wanted or unwanted")
    _endpoint(app, "POST", "/api/ground", ground, GroundResponse, "Show where words are in an image")
    _endpoint(app, "POST", "/api/ask", ask, AskResponse, "Answer a question about an image")
    _endpoint(app, "GET", "/api/pictures/{key}", picture, None, "An image as JPEG, as the model reads it")
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _defect)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(LateError, _late)
    return app


def _endpoint(app: FastAPI, method: str, path: str, call: Callable[..., Awaitable[Any]], model: Any, summary: str) -> None:
    app.add_api_route(path, call, methods=[method], response_model=model, summary=summary, responses=_FAILURES)


def _file(name: str) -> Callable[[], Awaitable[Response]]:
    content, media_type = (STATIC / name).read_bytes(), _TYPES[Path(name).suffix]

    async def file() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return file


def _failure(status: int, text: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": " ".join(text.split())}, status, {**NO_STORE, **(headers or {})})


async def _mistake(request: Request, error: Exception) -> JSONResponse:
    return _failure(400, str(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
    return _failure(400, f"{place or 'the request'}: {first['msg']}")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _failure(error.status_code, str(error.detail))


async def _defect(request: Request, error: Exception) -> JSONResponse:
    return _failure(500, "the server has a defect, which its terminal shows: try another request")


async def _busy(request: Request, error: Exception) -> JSONResponse:
    return _failure(503, "too many requests wait: try again in a few seconds", {"Retry-After": "5"})


async def _late(request: Request, error: Exception) -> JSONResponse:
    return _failure(504, "the answer took too long: try again, or re-rank fewer images")
