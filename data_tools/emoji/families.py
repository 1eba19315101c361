"""Groups emoji concepts that are variants of one subject into families, so that no family is in two splits.

Two concepts belong to one family if they share a key made of their code points or their label, directly or through others.
The rules prefer joining too much: a family that is too large makes the test harder, one that is too small leaks test concepts
into training.
"""

from __future__ import annotations

from collections.abc import Mapping

_PEOPLE = frozenset({"1f468", "1f469", "1f9d1"})  # man, woman, person
_CODE_VARIANTS = frozenset({"2640", "2642", "27a1", *(f"1f3f{digit}" for digit in "bcdef")})  # gender, direction, skin tone

_GENDER = frozenset({"man", "woman", "men", "women", "person", "people", "boy", "girl", "child", "and"})
_DIRECTION = frozenset({"left", "right", "up", "down", "leftwards", "rightwards", "upwards", "downwards", "oncoming"})
_FACING = frozenset({"left-facing", "right-facing", "facing", "pointing", "pointed"})
_COLOUR = frozenset({"red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "grey", "pink", "light"})
_SIZE = frozenset({"large", "small", "medium", "medium-small", "low", "high"})
_STATE = frozenset({"increasing", "decreasing", "open", "closed", "raised", "lowered"})
_IGNORED = _GENDER | _DIRECTION | _FACING | _COLOUR | _SIZE | _STATE

_SUBJECTS = (  # (text within the label, family)
    ("o\u2019clock", "clock face"),
    ("-thirty", "clock face"),
    (" moon", "moon"),
    ("-no-evil monkey", "no-evil monkey"),
    ("place medal", "place medal"),
    ("(blood type)", "blood type"),
    ("“", "japanese button"),
    ("globe showing", "globe showing"),
    ("feeding", "feeding"),
    ("check mark", "check mark"),
    ("check box", "check mark"),
    ("cross mark", "cross mark"),
)
_SAME_SUBJECT = (
    ("1f934", "1f478", "1fac5"),  # prince, princess, person with crown
    ("1f385", "1f936", "1f9d1-200d-1f384"),  # Santa Claus, Mrs. Claus, Mx Claus
    ("1f9d3", "1f474", "1f475"),  # older person, old man, old woman
    ("1f6b9", "1f6ba", "1f6bb"),  # men's room, women's room, restroom
)
_ANIMALS, _SYMBOLS = 3, 8  # emojibase's group numbers


def normal_code(hexcode: str) -> str:
    """`hexcode` in the form shared by all sets: lower case, parts of at least four digits, no emoji variation selector."""
    return "-".join(part.zfill(4) for part in hexcode.lower().split("-") if part != "fe0f")


def family_keys(code: str, label: str, group: int) -> list[str]:
    """The keys of one concept: its code points and its label, both without the parts that distinguish variants."""
    parts = [part for part in code.split("-") if part not in _CODE_VARIANTS]
    parts = ["person" if part in _PEOPLE else part for part in parts] or [code]
    while parts and parts[-1] == "200d":
        parts.pop()
    keys = ["code " + "-".join(parts), "label " + _subject(label.lower(), group)]
    keys += [f"subject {row[0]}" for row in _SAME_SUBJECT if code in row]
    return keys


def _subject(label: str, group: int) -> str:
    for text, family in _SUBJECTS:
        if text in label:
            return family
    if group == _SYMBOLS and "arrow" in label:
        return "arrow"
    label = label.split(":")[0]
    if group == _ANIMALS:
        label = label.removesuffix(" face")
    return " ".join(word for word in label.split() if word not in _IGNORED) or (
        "person" if set(label.split()) & _GENDER else label
    )


def group_families(keys: Mapping[str, list[str]]) -> dict[str, str]:
    """Maps concepts to their family's name: its first concept in sorted order. `keys` maps concepts to their `family_keys`."""
    parent: dict[str, str] = {code: code for code in keys}

    def root(code: str) -> str:
        while parent[code] != code:
            code = parent[code]
        return code

    owner: dict[str, str] = {}
    for code in sorted(keys):
        for key in keys[code]:
            one, other = sorted((root(owner.setdefault(key, code)), root(code)))
            parent[other] = one
    return {code: root(code) for code in keys}
