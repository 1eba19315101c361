"""Tables of an evaluation's measures: recalls side by side, the main measure first, sizes in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping

from albef_ds.common.html import note, table, text_table
from albef_ds.training.metric_names import is_size

_RECALL = re.compile(r"(?P<task>(?:.*/)?)(?:(?P<direction>i2t|t2i)_r(?P<k>\d+)|mean_recall)(?:_(?P<form>.+))?")
_FORMS = {"": "ITC", "itm": "ITM", "itm_itc": "ITM and ITC"}
_CHANCE = "chance"


def score_tables(values: Mapping[str, float], main: str | None, digits: str = ".4g") -> str:
    """Returns the measures of one evaluation as tables.

    Args:
        values: measures by name, such as `retrieval/i2t_r1_itm` or `vqa/accuracy`.
        main: the name of the main measure, whose row is the first; None if there is none.
        digits: format of a value.
    """
    recalls = {name: found for name in values if (found := _RECALL.fullmatch(name))}
    others = [name for name in values if name not in recalls and not is_size(name)]
    parts = [_recalls(recalls, values, main, digits)] if recalls else []
    if others:
        others.sort(key=lambda name: name != main)
        parts.append(text_table([(name, f"{values[name]:{digits}}") for name in others]))
    if sizes := [f"{name} {value:g}" for name, value in values.items() if is_size(name)]:
        parts.append(note(", ".join(sizes)))
    return "".join(parts)


def _recalls(recalls: dict[str, re.Match[str]], values: Mapping[str, float], main: str | None, digits: str) -> str:
    """A row per kind of score, a column per direction and number of candidates."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    columns: dict[str, tuple[str, int]] = {}
    first = recalls.get(main or "")
    for name, found in recalls.items():
        direction, k = found["direction"] or "mean", int(found["k"] or 0)
        column = f"{direction} R@{k}" if k else "mean recall"
        columns[column] = ("" if column == "mean recall" else direction, k)
        rows.setdefault((found["task"], found["form"] or ""), {})[column] = f"{values[name]:{digits}}"
    wanted = (first["task"], first["form"] or "") if first else None
    order = sorted(rows, key=lambda row: (row != wanted, row[1] == _CHANCE))
    names = sorted(columns, key=lambda column: columns[column])
    lines = [(task + _FORMS.get(form, form), [rows[task, form].get(name, "-") for name in names]) for task, form in order]
    return table(names, lines)
