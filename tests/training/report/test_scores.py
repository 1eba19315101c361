"""An evaluation's measures are shown once each, the main one first."""

from __future__ import annotations

import re

from albef_ds.training.report.scores import score_tables


def rows(text: str) -> list[list[str]]:
    return [re.findall(r"<t[hd]>(?:<code>)?([^<]*)", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def test_recalls_stand_side_by_side_with_the_main_kind_first_and_chance_last() -> None:
    values = {"retrieval/i2t_r1_chance": 1, "retrieval/i2t_r10": 60, "retrieval/i2t_r1": 35.25, "retrieval/t2i_r1": 30}
    values |= {"retrieval/mean_recall_itm": 55.5, "retrieval/i2t_r1_itm": 40, "retrieval/num_images": 1000}
    text = score_tables(values, "retrieval/mean_recall_itm")
    assert rows(text) == [
        ["", "mean recall", "i2t R@1", "i2t R@10", "t2i R@1"],
        ["retrieval/ITM", "55.5", "40", "-", "-"],
        ["retrieval/ITC", "-", "35.25", "60", "30"],
        ["retrieval/chance", "-", "1", "-", "-"],
    ]
    assert text.endswith('<p class="note">retrieval/num_images 1000</p>')


def test_other_measures_are_rows_with_the_main_one_first() -> None:
    text = score_tables({"vqa/yes": 80.126, "vqa/accuracy": 70.5, "odd <name>": 1}, "vqa/accuracy", ".2f")
    assert rows(text) == [["vqa/accuracy", "70.50"], ["vqa/yes", "80.13"], ["odd &lt;name&gt;", "1.00"]]
    assert score_tables({}, None) == ""
