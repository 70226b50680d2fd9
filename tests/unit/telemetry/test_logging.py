"""Log lines: JSON, with the context, without secrets."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from secateur._redaction import REDACTED, redact
from secateur_service.telemetry.logging import configure_logging

SECRETS = [
    "sct_" + "aB-_" * 10 + "xyz",
    "hf_" + "a1B2" * 9,
    "AKIA" + "ABCDEFGH" * 2,
    "ghp_" + "a" * 36,
    "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the logs go; afterwards the configuration is as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging(level="info", stream=stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


def _lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_with_level_time_logger_and_bound_context(stream: io.StringIO):
    with structlog.contextvars.bound_contextvars(request_id="r-1", job="j-1"):
        structlog.get_logger("a.b").info("begun", block=3)
    (line,) = _lines(stream)
    timestamp = line.pop("timestamp")
    assert timestamp.endswith("Z")
    assert line == {
        "event": "begun",
        "level": "info",
        "logger": "a.b",
        "block": 3,
        "request_id": "r-1",
        "job": "j-1",
    }


SELF_LOGGING = """
import sys, warnings
{before}
from secateur_service.telemetry.logging import configure_logging
configure_logging(stream=sys.stderr, log_format="console")
import transformers, huggingface_hub
from transformers.utils import logging
logging.get_logger("transformers.models").warning("steered \x1b[2J, {secret}")
huggingface_hub.utils.logging.get_logger("huggingface_hub.hub").warning("\x9b2J")
warnings.warn("of python \x1b[2J")
"""


@pytest.mark.parametrize("before", ["", "import transformers; transformers.utils.logging.get_logger()"])
def test_lines_of_libraries_that_write_them_by_themselves_are_written_as_all_others(before: str):
    program = SELF_LOGGING.format(before=before, secret=SECRETS[1])
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8")
    lines = finished.stderr.splitlines()
    assert len(lines) == 3, finished.stderr
    assert all("[warning" in line and line.startswith("20") for line in lines), finished.stderr
    assert "\x1b" not in finished.stderr
    assert "\x9b" not in finished.stderr
    assert SECRETS[1] not in finished.stderr
    assert finished.stdout == ""


def test_lines_of_libraries_have_the_same_form_and_context(stream: io.StringIO):
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logging.getLogger("library").warning("slow: %d s", 7, extra={"password": "x"})
    logging.getLogger("library").debug("unseen")
    (line,) = _lines(stream)
    assert (line["event"], line["level"], line["request_id"]) == ("slow: 7 s", "warning", "r-1")
    assert line["password"] == REDACTED


def test_console_lines_are_redacted_too():
    stream = io.StringIO()
    root = logging.getLogger()
    handlers = root.handlers[:]
    configure_logging(log_format="console", stream=stream)
    try:
        raise ValueError(SECRETS[0])
    except ValueError:
        structlog.get_logger().exception("failed", token="abcdef")
    finally:
        structlog.reset_defaults()
        root.handlers[:] = handlers
    assert "ValueError" in stream.getvalue()
    assert SECRETS[0] not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()


def test_tracebacks_do_not_show_local_variables(stream: io.StringIO):
    def fail(hidden: str) -> None:
        raise ValueError("no")

    try:
        fail("local" + "value")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "localvalue" not in stream.getvalue()


@pytest.mark.parametrize("secret", SECRETS)
def test_tokens_are_redacted_wherever_they_stand(stream: io.StringIO, secret: str):
    log = structlog.get_logger()
    try:
        raise ValueError(f"cannot log in with {secret}")
    except ValueError:
        log.exception("failed with %s", secret, nested={"list": [f"x {secret} y"]})
    assert secret not in stream.getvalue()
    (line,) = _lines(stream)
    assert line["nested"] == {"list": [f"x {REDACTED} y"]}
    assert REDACTED in json.dumps(line["exception"])


def test_values_are_redacted_by_the_name_of_their_key():
    data = {
        "s3_secret_key": "abc",
        "AWS_ACCESS_KEY_ID": "abc",
        "authorization": "Basic abc",
        "token": "abc",
        "nested": [{"db-password": 7}],
        "page_token": "kept",
        "tokens_per_language": 65536,
        "part": {"secret": None},
        "keyboard": "kept",
    }
    assert redact(data) == {
        "s3_secret_key": REDACTED,
        "AWS_ACCESS_KEY_ID": REDACTED,
        "authorization": REDACTED,
        "token": REDACTED,
        "nested": [{"db-password": REDACTED}],
        "page_token": "kept",
        "tokens_per_language": 65536,
        "part": {"secret": None},
        "keyboard": "kept",
    }


def test_passwords_in_urls_are_redacted_and_the_rest_of_the_url_stays():
    assert redact("see postgresql://bob:s3cret@db:5432/jobs") == f"see postgresql://{REDACTED}@db:5432/jobs"
    assert redact("http://store/a?X-Amz-Signature=abc123&x=1") == f"http://store/a?X-Amz-Signature={REDACTED}&x=1"
    assert redact("file:///models/a@b") == "file:///models/a@b"


def test_a_line_break_in_a_value_cannot_begin_another_line(stream: io.StringIO):
    structlog.get_logger().info("x", name='a\n{"event": "forged"}')
    assert len(stream.getvalue().splitlines()) == 1
