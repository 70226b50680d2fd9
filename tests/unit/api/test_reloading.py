"""Files that are exchanged under a running server."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from secateur_service.api.reloading import Reloading, UnusableFileError
from support.certificates import put


class Number:
    """Reads a number from a file, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0

    def __call__(self) -> int:
        self.reads += 1
        try:
            return int(self.path.read_text())
        except OSError as error:
            raise UnusableFileError(f"number {self.path} cannot be read") from error
        except ValueError as error:
            raise UnusableFileError(f"number {self.path} is none") from error


@pytest.fixture
def number(tmp_path: Path) -> Number:
    (tmp_path / "number").write_text("1")
    return Number(tmp_path / "number")


def test_a_file_is_read_again_only_when_it_has_changed(number: Number):
    source = Reloading([number.path], number)
    for _ in range(3):
        source.look()
    assert (source.value, number.reads) == (1, 1)
    put(number.path, b"2")
    source.look()
    assert (source.value, number.reads) == (2, 2)


def test_a_link_that_leads_to_another_file_is_a_change(number: Number, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(number.path)
    number.path = link
    source = Reloading([link], number)
    (tmp_path / "other").write_text("3")
    link.unlink()
    link.symlink_to(tmp_path / "other")
    source.look()
    assert source.value == 3


@pytest.mark.parametrize("content", [b"broken", None])
def test_a_file_that_becomes_unusable_is_told_once_and_changes_nothing_until_it_is_usable_again(
    number: Number, content: bytes | None
):
    source = Reloading([number.path], number)
    if content is None:
        number.path.unlink()
    else:
        put(number.path, content)
    with capture_logs() as lines:
        for _ in range(3):
            source.look()
    assert source.value == 1
    [line] = lines
    assert line["log_level"] == "error"
    assert str(number.path) in line["error"]
    put(number.path, b"4")
    source.look()
    assert source.value == 4


def test_what_failed_for_another_reason_than_the_file_is_tried_again_though_the_file_stays(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("x")
    outcomes: list[int | Exception] = [1, MemoryError("for a moment"), 2]

    def read() -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    source = Reloading([path], read)
    put(path, b"y")
    with capture_logs() as lines:
        source.look()
        assert source.value == 1
        source.look()
    assert source.value == 2
    assert [line["log_level"] for line in lines] == ["error", "info"]


def test_there_is_no_value_without_a_first_one(tmp_path: Path):
    with pytest.raises(UnusableFileError):
        Reloading([tmp_path / "none"], Number(tmp_path / "none"))
