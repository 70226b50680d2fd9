"""A call as a pure flow: the test plays the network, step by step."""

import grpc
import pytest

import secateur
from secateur._flow import TRIES, Call, Contact, Finished, Run, Sleep, advance, call
from secateur.v1 import prune_service_pb2 as service_pb
from support.rpc import Refused

REFUSED = Refused(
    grpc.StatusCode.UNAVAILABLE,
    "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: "
    "Connection refused",
)
STOPPING = Refused(grpc.StatusCode.UNAVAILABLE, "socket closed")
UNTRUSTED = Refused(grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED: self-signed certificate")
BROKEN = Refused(grpc.StatusCode.INTERNAL, "a defect")


def calls_until(answers, **given):
    """How often a call is made whose tries end so; the pauses between; and its answer."""
    flow, answers, pauses, calls = (
        call("GetServiceInfo", service_pb.GetServiceInfoRequest(), 60, **given),
        iter(answers),
        [],
        0,
    )
    answer = error = None
    while not isinstance(step := advance(flow, answer, error), Finished):
        answer = error = None
        if isinstance(step, Sleep):
            pauses.append(step.seconds)
            continue
        if isinstance(step, Run):
            answer = step.function()
            continue
        assert isinstance(step, Call)
        calls += 1
        answer = next(answers)
        if isinstance(answer, grpc.RpcError):
            answer, error = None, answer
    return calls, pauses, step.value


def test_a_call_is_repeated_with_growing_pauses_while_the_service_is_unavailable():
    calls, pauses, answer = calls_until([STOPPING, REFUSED, STOPPING, "answer"])
    assert (calls, answer) == (TRIES, "answer")
    assert all(least <= pause <= 2 * least for least, pause in zip((0.25, 0.5, 1), pauses, strict=True))


@pytest.mark.parametrize(
    ("answers", "met", "kind"),
    [
        ([STOPPING] * TRIES, True, secateur.UnavailableError),
        ([REFUSED] * TRIES, True, secateur.UnavailableError),
        ([REFUSED], False, secateur.UnavailableError),
        ([STOPPING] + [REFUSED] * (TRIES - 1), False, secateur.UnavailableError),
        ([UNTRUSTED], True, secateur.CertificateError),
        ([BROKEN], True, secateur.ServiceFaultError),
    ],
)
def test_a_call_ends_as_soon_as_another_try_makes_no_sense(answers, met, kind):
    left = iter(answers)
    with pytest.raises(kind):
        calls_until(left, contact=Contact(made=met))
    assert not list(left)


@pytest.mark.parametrize("text", [STOPPING, REFUSED])
def test_a_service_that_was_never_met_is_asked_whether_it_speaks_tls(text):
    with pytest.raises(secateur.ProtocolError, match="speaks TLS; use https://HOST:PORT"):
        calls_until([text], contact=Contact(speaks_tls=lambda: True))
    with pytest.raises(secateur.UnavailableError) as caught:
        calls_until([text] * TRIES, contact=Contact(made=True, speaks_tls=lambda: True))
    assert not isinstance(caught.value, secateur.ProtocolError)


def test_a_call_that_has_no_time_left_is_not_repeated():
    flow = call("GetServiceInfo", service_pb.GetServiceInfoRequest(), 0.1)
    advance(flow, None, None)
    with pytest.raises(secateur.UnavailableError, match="socket closed"):
        advance(flow, None, STOPPING)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (REFUSED.details(), "nothing listens there (connection refused)"),
        ("failed to connect to all addresses; last error: unix:/x error: No such file or directory", "no such socket"),
        ("errors resolving x:1: [field:hostname lookup error:Domain name not found]", "no such host"),
    ],
)
def test_what_grpc_says_of_a_service_that_is_not_there_is_told_in_a_few_words(text, told):
    error = secateur._errors.from_rpc_error(Refused(grpc.StatusCode.UNAVAILABLE, text))
    assert error.reason == "CONNECTION_REFUSED"
    assert told in error.message
