"""The table from the service's errors to gRPC."""

from __future__ import annotations

import errno
import inspect

import grpc
import pytest
from google.rpc import error_details_pb2

from secateur_service import errors
from secateur_service.api.errors import GRPC_CODES, code_of, grpc_code, status_of, status_of_any
from secateur_service.errors import FieldViolation, InvalidRequestError, InvalidSpecError, NotFoundError, ServiceError

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ServiceError) and kind not in (ServiceError, errors.AttemptError)
]


def _detail(status, kind):
    for detail in status.details:
        message = kind()
        if detail.Unpack(message):
            return message
    return None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_machine_that_has_no_more_to_give_is_no_defect(number):
    status = status_of_any(OSError(number, "whatever the system says", "/secret/path"))
    assert code_of(status) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert _detail(status, error_details_pb2.ErrorInfo).reason == "OVERLOADED"
    assert _detail(status, error_details_pb2.RetryInfo) is not None
    assert "secret" not in str(status)


def test_any_other_error_of_the_system_is_a_defect():
    assert code_of(status_of_any(OSError(errno.EACCES, "no"))) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_class_has_a_code_of_its_own_or_of_its_parent(kind: type[ServiceError]):
    assert any(parent in GRPC_CODES for parent in kind.__mro__)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not issubclass(kind, InvalidRequestError)])
def test_the_status_carries_reason_domain_and_metadata_and_says_whether_to_retry(kind: type[ServiceError]):
    status = status_of(kind("what happened", metadata={"job": "j"}))
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason, dict(info.metadata)) == ("secateur", kind.reason, {"job": "j"})
    assert status.message == "what happened"
    assert (_detail(status, error_details_pb2.RetryInfo) is not None) == kind.retryable
    assert code_of(status) == grpc_code(kind("x")) != grpc.StatusCode.OK


def test_violations_of_a_specification_are_an_invalid_argument():
    status = status_of(InvalidSpecError([FieldViolation("a.b", "expected c")]))
    assert code_of(status) == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = _detail(status, error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("a.b", "expected c")
    assert status.message == "a.b: expected c"


@pytest.mark.parametrize("count", [1, 3, 40, 5000])
@pytest.mark.parametrize("text", ["too long " * 8, "値が無効" * 9])
def test_a_status_always_fits_into_the_trailers_of_a_stock_client(count: int, text: str):
    status = status_of(InvalidRequestError([FieldViolation(f"f[{number}]", text) for number in range(count)]))
    wire = len(status.SerializeToString()) * 4 / 3 + 3 * len(status.message.encode())
    assert wire < 7.5 * 1024
    violations = _detail(status, error_details_pb2.BadRequest).field_violations
    listed = [violation for violation in violations if violation.field]
    left_out = [violation.description for violation in violations if not violation.field]
    if left_out:
        assert left_out == [f"and {count - len(listed)} more; correct these first"]
    else:
        assert len(listed) == count


def test_a_long_message_is_cut_and_stays_valid_text():
    status = status_of(NotFoundError("ü" * 10_000, metadata={"name": "ü" * 10_000}))
    assert status.message.endswith("ü…")
    assert status.ByteSize() < 1500
