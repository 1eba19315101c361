"""Answers the requests of the endpoints: models, gallery and lines of work. Knows no HTTP."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from albef_ds.common.errors import ConfigError, DataError, UserError
from albef_ds.common.progress import Advance
from albef_ds.inference.inputs import Member
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.serving.gallery import Gallery, Pictures
from albef_ds.inference.serving.messages import (
    Answer,
    AskRequest,
    AskResponse,
    GroundRequest,
    GroundResponse,
    LeftOut,
    Progress,
    QueryTerm,
    SearchHit,
    SearchRequest,
    SearchResponse,
    Status,
    WordMap,
)
from albef_ds.inference.serving.pictures import SIZES, Thumbnails, uploaded, with_heat
from albef_ds.inference.serving.query import Ranked, Term, rank
from albef_ds.inference.serving.worker import Worker

_T = TypeVar("_T")
_LISTED = 100
_PAUSE, _SHARE = 1.0, 20
"""Folders are listed again after a second, or after this many times the time that listing takes."""
_LAST_BATCH = 30.0
"""Seconds that the end waits for the batch that is being encoded: the interpreter must not end while a thread computes."""


@dataclass(frozen=True)
class Load:
    """How much may wait, and how long."""

    longest: int = 256
    """Requests that wait or run at once; further ones are refused."""
    seconds: float = 60.0
    """Time limit of a request."""


class Service:
    """One model for search and grounding, perhaps one for questions, and the images of `gallery`.

    `start` begins to index; searches meanwhile see the images indexed before. One thread computes, two make JPEGs, and one more
    encodes new images.
    """

    def __init__(
        self, model: AlbefModel, gallery: Gallery, answering: AlbefModel | None = None, load: Load | None = None
    ) -> None:
        load = load or Load()
        self._model, self._gallery, self._answering = model, gallery, answering
        self._compute = Worker(1, load.longest, load.seconds)
        self._draw = Worker(2, load.longest, load.seconds)
        self._thumbnails = Thumbnails(model)
        self._indexing: Advance | None = Advance()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="index", daemon=True)

    def start(self) -> None:
        """Begins to index and to follow changes of the folders."""
        self._thread.start()

    def close(self) -> None:
        """Ends the threads. A batch that is being encoded is waited for, and is in the index; other results are given up."""
        self._ended.set()
        self._compute.close()
        self._draw.close()
        if self._thread.is_alive():
            self._thread.join(_LAST_BATCH)

    def status(self) -> Status:
        """What the server has now."""
        now, indexing = self._gallery.now, self._indexing
        return Status(
            model=self._model.kind,
            pictures=len(now.places),
            version=self._gallery.version,
            indexing=_progress(indexing),
            unreadable=[LeftOut(name=name, reason=_without_folder(name, reason)) for name, reason in now.unreadable[:_LISTED]],
            num_unreadable=len(now.unreadable),
            can_ask=self._answering is not None,
            problem=self._gallery.problem,
        )

    async def search(self, request: SearchRequest) -> SearchResponse:
        """The ranking. Raises `UserError`, or as `Worker.run`."""

        def call(check: Callable[[], None]) -> SearchResponse:
            started, now = time.monotonic(), self._gallery.now
            if not now.places:
                raise DataError(
                    f"no image is indexed ({self._gallery.problem or 'the folders are being read'}): wait, or add images"
                )
            terms = [self._term(term, now) for term in request.terms]
            kept = self._gallery.kept()
            hits = rank(self._model, terms, now, top=request.top, rerank=request.rerank, kept=kept, between=check)
            seconds, found = round(time.monotonic() - started, 3), [_hit(hit, now) for hit in hits]
            return SearchResponse(hits=found, pictures=len(now.places), seconds=seconds, recall=now.recall)

        return await self._compute.run(call)

    async def ground(self, request: GroundRequest) -> GroundResponse:
        """Heat maps of words. Raises as `search`."""

        def call(check: Callable[[], None]) -> GroundResponse:
            path = self._gallery.path(request.picture)

            def draw() -> GroundResponse:
                found, image = self._model.ground(path, request.text), self._model.picture(path)
                image.thumbnail((max(SIZES), max(SIZES)))
                words = [WordMap(word=word, image=with_heat(image, heat, min(SIZES))) for word, heat in found.words]
                return GroundResponse(text=request.text, image=with_heat(image, found.heatmap, max(SIZES)), words=words)

            return _naming(path, draw)

        return await self._compute.run(call)

    async def ask(self, request: AskRequest) -> AskResponse:
        """Answers to a question. Raises as `search`."""
        model = self._answering
        if model is None:
            raise ConfigError("no model that answers questions is loaded: start the server with one")

        def call(check: Callable[[], None]) -> AskResponse:
            path = self._gallery.path(request.picture)
            [found] = _naming(path, lambda: model.answers(path, request.question, top=request.top))
            return AskResponse(answers=[Answer(answer=text, probability=value) for text, value in found])

        return await self._compute.run(call)

    async def picture(self, key: str, side: int) -> bytes:
        """The JPEG of an image. Raises as `search`."""

        def call(check: Callable[[], None]) -> bytes:
            path = self._gallery.path(key)
            return _naming(path, lambda: self._thumbnails.jpeg(path, side))

        return await self._draw.run(call)

    def _term(self, term: QueryTerm, now: Pictures) -> Term:
        if term.text is not None:
            return Term(self._model.encode_text(term.text)[0].cpu(), term.wanted, term.text)
        if term.image is not None:
            return Term(self._model.encode_image(uploaded(term.image, self._model))[0].cpu(), term.wanted)
        place = now.places.get(term.picture or "")
        if place is None:
            raise DataError("an image of the query is no longer there: leave it out")
        return Term(now.feature(place), term.wanted)

    def _follow(self) -> None:
        """Follows the folders until `close`."""

        while not self._ended.is_set():
            started = time.monotonic()
            advance = Advance()

            def progress(stage: str, done: int, total: int, advance: Advance = advance) -> None:
                if self._ended.is_set():
                    raise _EndedError
                advance(stage, done, total)
                self._indexing = advance

            try:
                changed = self._gallery.refresh(progress)
            except _EndedError:
                return
            self._indexing = None
            # Where something changed, most of the time was that of encoding.
            self._ended.wait(_PAUSE if changed else max(_PAUSE, _SHARE * (time.monotonic() - started)))


class _EndedError(Exception):
    """The server ends."""


def _progress(advance: Advance | None) -> Progress | None:
    if advance is None:
        return None
    done, total, left = advance.facts()
    return Progress(done=done, total=total, seconds_left=left)


def _hit(hit: Ranked, now: Pictures) -> SearchHit:
    return SearchHit(picture=now.keys[hit.place], name=now.name(hit.place), similarity=hit.similarity, match=hit.match)


def _naming(image: Path | Member, call: Callable[[], _T]) -> _T:
    """`call()`; an error names the file without its folder."""
    try:
        return call()
    except UserError as error:
        raise type(error)(_without_folder(os.path.basename(str(image)), str(error))) from None


def _without_folder(name: str, text: str) -> str:
    """A reason that begins with a file's whole path, with its name instead."""
    short = os.path.basename(name)
    before, found, after = text.partition(short)
    return short + after if found and before.startswith("/") else text
