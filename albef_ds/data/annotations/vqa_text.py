"""The text normalisation of the official VQA accuracy (Antol et al., ICCV 2015; rules published with the VQA evaluation).

In this order: line breaks become spaces; punctuation is removed or becomes spaces; full stops are removed except before a digit;
lower case; number words zero to ten become digits; articles are removed; contractions get their apostrophe.
"""

from __future__ import annotations

import re

PUNCTUATION = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
ARTICLES = ("a", "an", "the")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(digit) for digit, word in enumerate(_DIGITS)}}
# fmt: off
_SINGLE = [
    "ain't", "aren't", "can't", "could've", "couldn't", "didn't", "doesn't", "don't", "hadn't", "hasn't", "haven't", "he'd",
    "he's", "how'd", "how'll", "how's", "isn't", "it'd", "it'll", "ma'am", "mightn't", "might've", "mustn't", "must've",
    "needn't", "not've", "o'clock", "oughtn't", "shan't", "should've", "shouldn't", "somebody'll", "somebody's", "someone'd",
    "someone'll", "someone's", "something'd", "something'll", "that's", "there'd", "there're", "there's", "they'd", "they'll",
    "they're", "they've", "'twas", "wasn't", "we've", "weren't", "what'll", "what're", "what's", "what've", "when's",
    "where'd", "where's", "where've", "who'd", "who'll", "who's", "who've", "why'll", "why're", "why's", "won't", "would've",
    "wouldn't", "y'all", "you'd", "you'll", "you're", "you've",
]
_DOUBLE = [
    "couldn't've", "hadn't've", "he'd've", "it'd've", "mightn't've", "she'd've", "shouldn't've", "somebody'd've", "someone'd've",
    "something'd've", "there'd've", "they'd've", "we'd've", "who'd've", "wouldn't've", "y'all'll", "y'all'd've", "you'd've",
]
_OTHER = {
    "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at", "somebody'd": "somebodyd", "y'alld've": "y'all'd've",
}
# fmt: on
CONTRACTIONS = {word.replace("'", ""): word for word in _SINGLE} | _OTHER
"""Maps the spellings that the published table corrects. Its entries in capitals never match, since texts are in lower case."""
for _word in _DOUBLE:  # the table has the spellings without the first or without the last apostrophe, not without any
    _head, _, _tail = _word.rpartition("'")
    CONTRACTIONS[f"{_head}{_tail}"] = _word
    _first, _, _rest = _word.partition("'")
    CONTRACTIONS[_first + _rest] = _word

_FULL_STOPS = 32
"""Most full stops removed from one text: the published code passes a flag in the place of this count."""
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


def normalize_answer(text: str) -> str:
    """Returns `text` as the official accuracy compares it."""
    return _words(_punctuation(strip_breaks(text)))


def kept_answer(text: str) -> str:
    """Returns `text` normalised for training and ranking; an article alone, such as the letter "a", is an answer and stays."""
    return normalize_answer(text) or strip_breaks(text).lower()


def strip_breaks(text: str) -> str:
    """Replaces line breaks and tabs by spaces and strips: the only step applied if all annotators give the same answer."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str) -> str:
    # A mark next to a space is dropped, others become a space. If a number contains a comma, all marks in the text are dropped.
    result = text
    for mark in PUNCTUATION:
        drop = f"{mark} " in text or f" {mark}" in text or _COMMA_IN_NUMBER.search(text) is not None
        result = result.replace(mark, "" if drop else " ")
    return _FULL_STOP.sub("", result, count=_FULL_STOPS)


def _words(text: str) -> str:
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
