"""Names of files that users give: what is one and what is not."""

from __future__ import annotations

import pytest

from albef_ds.common.names import is_file_name


@pytest.mark.parametrize("name", ["groups", "a b", ".hidden", "été", "a.b"])
def test_a_name_is_one_of_a_file(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../up", "a/b", "a\nb", "a\0b"])
def test_a_name_that_leaves_the_folder_or_cannot_be_seen_is_none(name: str) -> None:
    assert not is_file_name(name)
