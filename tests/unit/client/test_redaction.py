"""No secret that a process knows leaves it, in whatever spelling a library gives it."""

import base64
import html
import io
import itertools
import json
import logging
import sys
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from secateur._foreign import detail_of
from secateur._redaction import REDACTED, passwords_of, protect, protecting, redact, redact_text
from secateur_service import errors
from secateur_service.api.errors import status_of
from secateur_service.control.exits import attempt_error, end_of_error
from secateur_service.jobs.events import log_body
from secateur_service.telemetry.logging import configure_logging

# Recognisable, so that no ordinary text is hit, and with everything that libraries escape.
SECRETS = st.text(st.sampled_from("ABCxyz019+/=%&<>\"'\\é~-_.!$ #"), min_size=4, max_size=40).map(
    lambda text: f"Kx{text}Zq"
)


def lines(text, width):
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


def traceback_of(text):
    try:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError("something else") from error
    except RuntimeError:
        return sys.exc_info()


def boxed(secret):
    """As a terminal of 20 columns shows it."""
    stream = io.StringIO()
    Console(file=stream, width=20).print(f"a: {secret}", markup=False, highlight=False)
    return stream.getvalue()


PLACES = {
    "as it is": lambda secret: f"Illegal header value {secret} there",
    "repr": lambda secret: f"bad {secret!r}",
    "repr of bytes": lambda secret: f"Illegal header value {b'Bearer ' + secret.encode()!r}",
    "json": lambda secret: json.dumps({"k": secret}),
    "json in letters": lambda secret: json.dumps({"k": secret}, ensure_ascii=False),
    "percent": lambda secret: f"https://h/?k={quote(secret, safe='')}&x=1",
    "percent, lower case": lambda secret: f"https://h/?k={quote(secret, safe='').lower()}" if secret.islower() else "",
    "form": lambda secret: f"k={quote_plus(secret)}",
    "html": lambda secret: f"<p>{html.escape(secret)}</p>",
    "basic authentication": lambda secret: "Basic " + base64.b64encode(f"user:{secret}".encode()).decode(),
    "basic, a longer user": lambda secret: "Basic " + base64.b64encode(f"user12:{secret}".encode()).decode(),
    "base64 of bytes around": lambda secret: base64.urlsafe_b64encode(b"\1" + secret.encode() + b"\2\3").decode(),
    "broken over lines": lambda secret: lines(secret, 5),
    "broken by a terminal": boxed,
    "broken, then escaped": lambda secret: repr(lines(secret, 7)),
}


def stripped(text):
    """What is left when all that may stand between its characters is taken out."""
    return "".join(text.split()).replace("\\n", "").replace("\\r", "")


@pytest.mark.parametrize("place", PLACES)
@given(secret=SECRETS)
@example(secret="KxQ" * 12)
def test_a_known_secret_is_found_in_every_spelling(place, secret):
    text = PLACES[place](secret)
    with protecting(secret):
        left = redact_text(text)
    if text:
        assert REDACTED in left
    assert stripped(secret) not in stripped(left)
    assert PLACES[place](secret) not in left or not text


@given(secret=SECRETS)
def test_what_leaves_a_process_holds_no_secret(secret):
    """Answers, failures, events and log lines, of texts, names, numbers, nested values, bytes and exceptions."""
    spelt = stripped(secret)
    with protecting(secret):
        texts = left_by(secret)
    for left in texts:
        assert spelt not in stripped(left)
        assert spelt not in stripped(left.encode().decode("unicode_escape", errors="replace"))


def left_by(secret):
    """What a process that knows a secret tells of errors that hold it."""
    refusal = errors.PermanentError(f"no {secret} here", metadata={"where": f"x{secret}x", f"{secret}": "y"})
    violation = errors.InvalidSpecError([errors.FieldViolation(f"a.{secret}", f"is {secret!r}")])
    status = [status_of(refusal), status_of(violation)]
    failure = end_of_error(attempt_error(refusal)).failure
    defect = end_of_error(attempt_error(traceback_of(f"what {secret} says")[1])).failure
    event = log_body("info", f"so {secret}", {"a": [{secret: (secret, 1, None)}], "b": OSError(secret), "c": secret})
    return [*map(repr, status), repr(failure), repr(defect), json.dumps(event), repr(redact({1: {secret}}))]


@pytest.fixture(params=["json", "console"])
def stream(request):
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.excepthook
    stream = io.StringIO()
    configure_logging(log_format=request.param, stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], root.level, sys.excepthook = before


def test_no_log_line_holds_a_secret_neither_in_a_traceback_nor_in_the_line_of_a_library(stream):
    secret = "Kx-of-the-log+/=Zq"
    protect([secret])
    log = structlog.get_logger()
    log.info("so %s", secret, value=secret, nested={"a": [secret.encode(), OSError(secret)]}, error=OSError(secret))
    log.error("failed", exc_info=traceback_of(secret))
    logging.getLogger("library").warning("sent %r", {"authorization": secret}, exc_info=traceback_of(secret))
    sys.excepthook(*traceback_of(secret))
    assert "RuntimeError" in stream.getvalue()
    assert secret not in stream.getvalue()


def test_a_line_that_cannot_be_formatted_is_told_without_its_arguments(stream, capfd):
    (ours,) = [handler for handler in logging.getLogger().handlers if getattr(handler, "stream", None) is stream]
    ours.handle(logging.LogRecord("library", logging.WARNING, "file.py", 7, "%d", ("Kx-not-a-number-Zq",), None))
    assert "Kx-not-a-number-Zq" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("http://bob:pa%40ss@proxy:3128", "pa%40ss"),
        ("http://bob:p@ss:w@proxy:3128/x", "p@ss:w"),
        ("https://glpat-1234567890@host/a", "glpat-1234567890"),
        ("postgresql+psycopg://bob:s3cret@db/jobs", "s3cret"),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        ("{'authorization': 'Bearer abc.def-123456'}", "abc.def-123456"),
        ("https://s/b/k?X-Amz-Credential=KEY%2F2026&X-Amz-Signature=ab12cd&X-Amz-Date=1", "ab12cd"),
        ("https://s/b/k?X-Amz-Credential=KEYID%2F2026&X-Amz-Signature=ab12cd", "KEYID"),
        ("https://s/b/k?AWSAccessKeyId=x&Signature=Zm9v%2Bbar%3D&Expires=1", "Zm9v%2Bbar"),
        ("https://a.blob.core.windows.net/c?sv=1&sig=Zm9vYmFy%3D", "Zm9vYmFy"),
        ("AWS4-HMAC-SHA256 Credential=x/2026, SignedHeaders=host, Signature=0123456789abcdef", "0123456789abcdef"),
    ],
)
def test_secrets_are_known_by_their_form_where_nobody_has_told_of_them(text, secret):
    assert secret not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "file:///models/a@b",
        "hf://gpt2@main",
        "hf://org/name@0123456789abcdef0123456789abcdef01234567",
        "basic authentication is not supported, use a bearer token",
        "tokens_per_language=65536 at http://127.0.0.1:9000/models",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact_text(text) == text


def test_a_short_password_is_found_as_a_word_and_takes_no_ordinary_text_with_it():
    with protecting("Kx9"):
        assert redact_text("password Kx9, in MKx9y") == f"password {REDACTED}, in MKx9y"


def test_passwords_of_urls():
    assert set(passwords_of("http://u:p%40x@h:1/a@b")) == {"p%40x", "p@x"}
    assert not list(passwords_of("http://h:1/a@b"))


def chained(*exceptions):
    for outer, inner in itertools.pairwise(exceptions):
        outer.__cause__ = inner
    return exceptions[0]


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (ValueError("secret"), "ValueError"),
        (ConnectionRefusedError(111, "secret"), "Connection refused"),
        (chained(RuntimeError("secret"), KeyError("secret"), OSError(111, "secret", "secret")), "Connection refused"),
        (TimeoutError("secret"), "no answer in time"),
        (OSError("secret"), "OSError"),
    ],
)
def test_what_is_said_of_a_foreign_exception_is_none_of_its_own_words(error, detail):
    assert detail_of(error) == detail
