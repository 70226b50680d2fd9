"""From gRPC's errors to the SDK's."""

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2 as details_pb
from google.rpc import status_pb2

import secateur
from secateur._errors import from_rpc_error
from secateur_service.api.errors import GRPC_CODES, status_of
from secateur_service.errors import FieldViolation, InvalidSpecError, NotReadyError, OverloadedError
from support.rpc import Refused


def refused(status, code):
    return Refused(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))


def test_a_refused_specification_lists_every_violation_by_its_path_in_the_yaml_form():
    status = status_of(
        InvalidSpecError(
            [FieldViolation("spec.pruning.sparsity", "less than 1"), FieldViolation("labels[x]", "too long")]
        )
    )
    error = from_rpc_error(refused(status, grpc.StatusCode.INVALID_ARGUMENT))
    assert isinstance(error, secateur.InvalidSpecError)
    assert [violation.field for violation in error.violations] == ["pruning.sparsity", "labels[x]"]
    assert str(error) == "pruning.sparsity: less than 1; labels[x]: too long"


def test_reason_and_metadata_come_from_the_service_and_a_foreign_domain_is_not_believed():
    error = from_rpc_error(
        refused(status_of(NotReadyError("not yet", metadata={"state": "RUNNING"})), grpc.StatusCode.FAILED_PRECONDITION)
    )
    assert isinstance(error, secateur.NotReadyError)
    assert (error.reason, error.metadata) == ("JOB_NOT_SUCCEEDED", {"state": "RUNNING"})

    foreign = any_pb2.Any()
    foreign.Pack(details_pb.ErrorInfo(reason="JOB_NOT_SUCCEEDED", domain="proxy.example", metadata={"a": "b"}))
    error = from_rpc_error(refused(status_pb2.Status(code=9, details=[foreign]), grpc.StatusCode.FAILED_PRECONDITION))
    assert (type(error), error.reason, error.metadata) == (secateur.PreconditionError, "FAILED_PRECONDITION", {})


def test_the_time_to_wait_is_what_the_service_asks_for():
    info = any_pb2.Any()
    info.Pack(details_pb.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000)))
    error = from_rpc_error(refused(status_pb2.Status(code=14, details=[info]), grpc.StatusCode.UNAVAILABLE))
    assert (error.retry_after_seconds, error.retryable) == (2.5, True)
    limit = from_rpc_error(refused(status_of(OverloadedError("full")), grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert isinstance(limit, secateur.OverloadedError)


@pytest.mark.parametrize(
    ("text", "reason", "remedy"),
    [
        (
            "OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            "CERTIFICATE_NOT_TRUSTED",
            "(unable to get local issuer certificate); name the authority that issued it with ca_file",
        ),
        (
            "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed.",
            "CERTIFICATE_FOR_OTHER_NAMES",
            "is trusted, but it is for other names; reach the service by a name that is in the certificate",
        ),
    ],
)
def test_a_certificate_that_is_not_trusted_is_not_worth_another_try(text, reason, remedy):
    error = from_rpc_error(Refused(grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses; {text}"))
    assert isinstance(error, secateur.CertificateError)
    assert (error.reason, error.retryable) == (reason, False)
    assert remedy in error.message
    other = from_rpc_error(Refused(grpc.StatusCode.INTERNAL, text))
    assert type(other) is secateur.ServiceFaultError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:100000f7:WRONG_VERSION_NUMBER", "no TLS"),
        ("Failed parsing HTTP/2: Expected SETTINGS frame as the first frame, got frame type 80", "not the gRPC port"),
    ],
)
def test_what_is_no_service_of_that_kind_is_said_in_our_words(text, said):
    error = from_rpc_error(Refused(grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses; {text}"))
    assert isinstance(error, secateur.ProtocolError)
    assert (said in error.message, error.retryable) == (True, False)


@pytest.mark.parametrize("trailers", [(), (("grpc-status-details-bin", b"\xff\xff"),), (("other", "x"),)])
def test_an_error_without_readable_details_keeps_its_code_and_text(trailers):
    error = from_rpc_error(Refused(grpc.StatusCode.NOT_FOUND, "no such job", trailers))
    assert (type(error), str(error), error.code) == (secateur.NotFoundError, "no such job", grpc.StatusCode.NOT_FOUND)


def test_every_code_that_the_service_uses_has_a_class_of_its_own_but_for_defects():
    generic = {
        code for code in GRPC_CODES.values() if type(from_rpc_error(Refused(code))) is secateur.ServiceFaultError
    }
    assert generic == {grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED}
