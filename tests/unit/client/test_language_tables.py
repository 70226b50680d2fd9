"""Tables with languages: in words where there is room."""

import pytest

from secateur.cli._languages import language_table, legend

ROWS = [("LANGUAGE", "RATIO"), ("de", "1.1"), ("zh-Hant,xx", "1.25")]


@pytest.mark.parametrize("width", [26, 43])
def test_a_name_stands_beside_its_tag_or_below_the_table_if_the_terminal_is_too_narrow(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = language_table(ROWS, right=[1]).splitlines()
    if width < 43:
        assert lines == [
            "LANGUAGE    RATIO",
            "de            1.1",
            "zh-Hant,xx   1.25",
            "de (German), zh-Hant (Chinese, Traditional)",
        ]
    else:
        assert lines[1].split() == ["de", "(German)", "1.1"]
        assert lines[2].startswith("zh-Hant (Chinese, Traditional), xx ")
        assert max(map(len, lines)) <= width


def test_tags_that_stand_for_nothing_are_not_explained(monkeypatch):
    monkeypatch.setenv("COLUMNS", "5")
    assert legend(["xx", ""]) == ""
    assert language_table([("LANGUAGE",), ("xx",)]) == "LANGUAGE\nxx"
