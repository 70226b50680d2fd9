"""No foreign character moves a terminal, turns a direction or ends a command, whatever the stream can encode."""

import dataclasses
import io
import json
import os
import sys
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn

from secateur import _event, _job
from secateur._artifact import CorpusPreset, ServiceInfo
from secateur._errors import FieldViolation, InvalidSpecError, JobFailedError, SecateurError, UnavailableError
from secateur._report import Report, TaskReport
from secateur._terminal import UNSAFE, OutputLostError, clean, clean_lines, console, first_unsafe, say, write
from secateur.cli import _exit, _jobs, _render

HARMFUL = [
    *map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    *"\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\ufeff\ud800\udfff\U000e0041",
]
SEQUENCES = [
    "\x1b[2J",
    "\x1b]8;;http://x\x07y\x1b]8;;\x07",
    "\x1b]52;c;eA==\x07",
    "\x9b31m",
    "\r\n",
    "[red]x[/red]",
    ":boom:",
]
TEXTS = st.lists(st.sampled_from([*HARMFUL, *SEQUENCES, "a", "é", "中", "😀"]), min_size=1).map("".join)


def unsafe_in(text):
    """What a terminal would obey; line breaks are looked at by those who count lines."""
    return [character for character in text if character != "\n" and character in HARMFUL]


@given(st.text())
def test_what_is_shown_has_no_character_without_a_shape_that_a_terminal_obeys(text):
    shown = clean(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not unsafe_in(shown)
    assert "\n" not in shown
    assert not unsafe_in(clean_lines(text))
    assert (first_unsafe(text) is None) == (clean(text) == text)


@pytest.mark.parametrize("text", ["Straße", "Україна", "中文 日本語", "हिन्दी", "עברית", "a b", "é", "😀"])
def test_letters_of_every_script_stay(text):
    assert clean(text) == text


def filled(kind, text):
    """A value of a dataclass whose every text, nested ones too, is `text`."""
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    return kind(**{name: content(str(hint), text) for name, hint in hints.items()})


def content(hint, text):
    hint = hint.removesuffix(" | None")
    known = {name: kind for module in (_job, _event) for name, kind in vars(module).items() if isinstance(kind, type)}
    if hint == "str":
        return text
    if hint.startswith("tuple[CorpusPreset"):
        return (filled(CorpusPreset, text),)
    if hint.startswith("tuple[str"):
        return (text, text)
    if hint == "datetime":
        return datetime(2026, 1, 1, tzinfo=UTC)
    if hint in ("int", "float", "bool"):
        return {"int": 1, "float": 0.5, "bool": True}[hint]
    if hint.startswith("Mapping[str, str"):
        return {text: text}
    if hint.startswith("Mapping[str, float"):
        return {text: 0.5}
    if hint.startswith("Mapping[str, Bound"):
        return {text: _job.Bound.READING}
    if hint.startswith("Mapping[str, LanguageResult"):
        return {text: filled(_job.LanguageResult, text)}
    if hint.startswith("Mapping[str, Any"):
        return {
            "model": {"uri": text},
            "calibration": {"languages": {text: 1.0}, "samples": 2, "sequence_length": 2, text: text},
            "evaluation": {"languages": [text], "tokens_per_language": 2},
        }
    kind = known[hint]
    if issubclass(kind, _job.JobState | _job.JobStage):
        return next(iter(kind))
    return filled(kind, text)


EVENTS = [kind for kind in vars(_event).values() if isinstance(kind, type) and issubclass(kind, _event.Event)]
EVENTS = [kind for kind in EVENTS if kind is not _event.Event]


@pytest.fixture(autouse=True, scope="module")
def wide_terminal():
    """So wide that no table is told otherwise for its width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100000")
        yield


def texts_of(text):
    """All that the command prints of answers whose every text is this one; each with the lines that it has at most."""
    job, plan, result = (filled(kind, text) for kind in (_job.Job, _job.Plan, _job.PublishedResult))
    info = filled(ServiceInfo, text)
    yield _jobs.job_text(job, {"verdicts": [{"message": text}]})
    yield from (_jobs.jobs_text([job], width) for width in (None, 80))
    yield _render.plan_text(plan)
    yield _render.result_text(result)
    yield _render.info_text(info)
    yield _render.preset_text(info.presets[0])
    yield from _render.verdict_lines({"verdicts": [{"message": text}]})
    yield from _render.task_lines(Report(tasks=[dataclasses.asdict(filled(TaskReport, text))]))
    for kind in EVENTS:
        yield _render.event_text(filled(kind, text))
    for error in (
        SecateurError(text, reason=text, metadata={text: text}),
        UnavailableError(text),
        InvalidSpecError([FieldViolation(text, text)]),
        JobFailedError(text, job=text, reason=text, details={text: text}),
    ):
        yield _exit.error_text(error, text)


def json_of(text):
    for kind in (_job.Job, _job.Plan, _job.PublishedResult, ServiceInfo):
        yield _render.to_json(filled(kind, text))
    for kind in EVENTS:
        yield _render.event_json(filled(kind, text))
    yield _exit.error_json(JobFailedError(text, job=text, reason=text, details={text: text}))


def printed(line, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    write(line, stream=stream)
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@given(text=TEXTS)
def test_no_text_of_an_answer_steers_a_terminal_in_any_encoding(encoding, text):
    for line in texts_of(text):
        assert not unsafe_in(printed(line, encoding))


@given(text=TEXTS)
def test_no_text_of_an_answer_adds_a_line(text):
    harmless = UNSAFE.sub("a", text)
    for line, other in zip(texts_of(text), texts_of(harmless), strict=True):
        if "model:" not in line:  # YAML folds long texts
            assert line.count("\n") == other.count("\n")


@given(text=TEXTS)
def test_json_is_of_ascii_and_says_the_same(text):
    for line in json_of(text):
        assert line.isascii()
        assert not unsafe_in(line)
        assert json.loads(line)
    # Two halves of one character, each escaped, are that character to every reader of JSON.
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(_render.to_json({"a": text}))["a"] == joined


def test_a_bar_takes_texts_as_they_are(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    terminal = console(stderr=True)
    with Progress(TextColumn("{task.description}", markup=False), console=terminal) as bar:
        bar.add_task("[red]é[/red] :boom:", total=1)
    stream.flush()
    assert b"[red]\\xe9[/red] :boom:" in stream.buffer.getvalue()


class Gone(io.RawIOBase):
    """A pipe whose reader is gone."""

    def writable(self):
        return True

    def write(self, _):
        raise BrokenPipeError


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_message_that_nobody_reads_ends_nothing(encoding):
    stream = io.TextIOWrapper(io.BufferedWriter(Gone(), 1), encoding=encoding)
    say("on and on", stream=stream)
    with pytest.raises(OutputLostError):
        write("a result", stream=stream)
    stream.detach()


def test_a_closed_stream_takes_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    say("x")
    write("x", stream=sys.stdout)
    console().print("x")
    console(stderr=True).print("x")
    assert os.fstat(1)


def test_tasks_are_a_table_with_errors_and_a_dash_for_what_is_not_known():
    known = {"task": "xnli_de", "language": "de", "metric": "acc", "samples": 100.0, "dense": 0.5, "pruned": 0.45}
    errors = {"dense_stderr": 0.05, "pruned_stderr": 0.05, "difference": -0.05, "difference_stderr": 0.02}
    unknown = dict.fromkeys((*errors, "pruned", "language"))
    rows = [{**known, **errors, "flips": 0.125}, {**known, **unknown, "metric": "perplexity", "flips": None}]
    (table,) = _render.task_lines(Report(tasks=rows))
    first, second = (" ".join(line.split()) for line in table.splitlines()[1:])
    assert first == "xnli_de de (German) acc 100 0.500 ± 0.050 0.450 ± 0.050 -0.050 ± 0.020 12.5%"
    assert second == "xnli_de - perplexity 100 0.500 - - -"
    assert _render.task_lines(Report()) == []
