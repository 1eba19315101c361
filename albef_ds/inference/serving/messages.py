"""What the JSON endpoints take and return."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Key = Annotated[str, Field(pattern="^[0-9a-f]{24}$", description="key of an image, from a hit")]
Words = Annotated[str, Field(min_length=1, max_length=1000)]


class Message(BaseModel):
    """Base class: refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid")


class QueryTerm(Message):
    """One part of a query: words, an image of the gallery, or an uploaded image."""

    text: Words | None = Field(None, description="words")
    picture: Key | None = None
    image: str | None = Field(None, min_length=1, description="an image file in base64, or as a data: URL")
    wanted: bool = Field(True, description="false: images like this are moved away from")

    @model_validator(mode="after")
    def _one(self) -> QueryTerm:
        if sum(value is not None for value in (self.text, self.picture, self.image)) != 1:
            raise ValueError("give exactly one of text, picture and image")
        return self


class SearchRequest(Message):
    """A query. ITM judges its words for the `rerank` most similar images."""

    terms: list[QueryTerm] = Field(min_length=1, max_length=8)
    top: int = Field(48, ge=1, le=500, description="number of hits")
    rerank: int = Field(32, ge=0, le=256, description="images that ITM judges; 0: none")


class SearchHit(Message):
    """One image of the ranking."""

    picture: Key
    name: str = Field(description="path below its folder")
    similarity: float = Field(description="ITC, -1 to 1")
    match: float | None = Field(description="ITM, 0 to 1; null if it was not judged")


class SearchResponse(Message):
    """The ranking, best first."""

    hits: list[SearchHit]
    pictures: int = Field(description="images that were searched")
    seconds: float
    recall: float | None = Field(description="share of the most similar images that are found; null: search is exact")


class GroundRequest(Message):
    """Words whose place in an image is asked for."""

    picture: Key
    text: Words


class WordMap(Message):
    """A heat map over the image."""

    word: str
    image: str = Field(description="JPEG as a data: URL")


class GroundResponse(Message):
    """Heat maps of the whole text and of each word, over the image as the model reads it."""

    text: str
    image: str = Field(description="JPEG as a data: URL")
    words: list[WordMap]


class AskRequest(Message):
    """A question about an image."""

    picture: Key
    question: Words
    top: int = Field(5, ge=1, le=20, description="number of answers")


class Answer(Message):
    """A generated answer."""

    answer: str
    probability: float


class AskResponse(Message):
    """Answers, the most probable first."""

    answers: list[Answer]


class LeftOut(Message):
    """A file that is not part of the gallery."""

    name: str
    reason: str


class Progress(Message):
    """Images encoded so far."""

    done: int
    total: int
    seconds_left: float | None = Field(description="null: not known yet")


class Status(Message):
    """What the server has."""

    model: str = Field(description="kind of the model")
    pictures: int
    version: int = Field(description="grows when images come, change or go")
    indexing: Progress | None = Field(description="null: all images are encoded")
    unreadable: list[LeftOut] = Field(description="the first 100 files that cannot be read")
    num_unreadable: int
    can_ask: bool = Field(description="a model that answers questions is loaded")
    problem: str = Field(description="why the folders could not be read; empty if they could")


class Failure(Message):
    """Why there is no answer, in one line."""

    error: str


PictureSize = Annotated[int, Field(ge=32, le=1280, description="largest side in pixels")]
