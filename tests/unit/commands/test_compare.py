"""`secateur-service compare`: results in folders, without a server."""

import json

import pytest
from typer.testing import CliRunner

from secateur_service.commands.main import app
from support.reports import make_report


def save(folder, *, resumed=0, **changes):
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_bytes(make_report(**changes).to_bytes())
    (folder / "provenance.json").write_text(json.dumps({"resumed_blocks": resumed, "seconds": {"total": 61.5}}))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    return [
        save(tmp_path / "one", ratios={"de": 1.1, "en": 1.4}, mix={"de": 1.0}),
        save(tmp_path / "two", ratios={"de": 1.5, "en": 1.2}, mix={"en": 1.0}, resumed=2),
    ]


def invoke(*arguments):
    return CliRunner().invoke(app, ["compare", *arguments])


def test_results_are_compared_as_text_as_json_and_as_a_page(folders, tmp_path):
    page = tmp_path / "page.html"
    done = invoke(*folders, "--language", "DE", "--html", str(page))
    assert done.exit_code == 0, done.output
    assert f"recommended for de (German): {folders[0]} (A)" in done.stdout
    assert str(page) in done.stderr
    assert page.read_bytes().startswith(b"<!doctype html>")
    (line,) = invoke(*folders, "--json").stdout.splitlines()
    found = json.loads(line)
    assert [job["name"] for job in found["jobs"]] == folders
    assert [job["seconds"] for job in found["jobs"]] == [61.5, None], "a resumed run's time is not known"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["{0}", "{0}"], 2, "name each folder once"),
        (["{0}", "--language", "not a tag"], 2, "'not a tag' is not a language"),
        (["{0}", "--max-growth", "0.05"], 2, "1.05 permits"),
        (["{0}", "/nowhere"], 2, "/nowhere/report/report.json cannot be read"),
        (["{0}", "--html", "/nowhere/page.html"], 2, "cannot be written"),
        (["{0}"] * 51, 2, "at most 50"),
        ([], 2, "FOLDER"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folders, arguments, code, told):
    done = invoke(*(argument.format(*folders) for argument in arguments))
    assert done.exit_code == code, done.output
    assert told in done.stderr


def test_a_report_that_is_none_is_named(folders, tmp_path):
    for number, content in enumerate((b"{", b'{"schema_version": "1"}')):
        folder = tmp_path / f"broken-{number}"
        (folder / "report").mkdir(parents=True)
        (folder / "report" / "report.json").write_bytes(content)
        done = invoke(folders[0], str(folder))
        assert done.exit_code == 10
        assert str(folder) in done.stderr
