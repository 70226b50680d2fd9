"""Operations without I/O, so that the logic exists only once for the synchronous and the asynchronous client.

An operation is a generator, a `Flow`: it yields steps that need I/O or time (a call, a stream's next message, a sleep)
and is sent their results. `_drive` runs the steps, in a thread or on an event loop. If a step fails, gRPC's error is
raised inside the flow, so that a flow reads like ordinary code.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from secateur._errors import (
    CONNECTION_REFUSED,
    DeadlineError,
    ProtocolError,
    RequestError,
    UnavailableError,
    from_rpc_error,
)

T = TypeVar("T")

TRIES = 4
"""How often a call is made at most, while the service is unavailable."""

_FIRST_WAIT_SECONDS = 0.5


class Stream(Protocol):
    """An open stream of responses, from either kind of channel."""

    def cancel(self) -> bool:
        """End the stream; harmless if it has ended."""


@dataclass(frozen=True)
class Call:
    """Make a unary call; its result is the response."""

    method: str
    request: Message
    timeout_seconds: float


@dataclass(frozen=True)
class Open:
    """Open a stream of responses; its result is a `Stream`."""

    method: str
    request: Message
    timeout_seconds: float | None


@dataclass(frozen=True)
class Receive:
    """Wait for a stream's next message; its result is the message, or None if the stream ended normally."""

    stream: Stream


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Run:
    """Run a function that blocks on files or sockets; its result is the return value; an exception ends the flow."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hand a value to the iterating caller; dropped if the caller only wants the flow's result."""

    value: Any


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The flow has returned."""

    value: T


Step: TypeAlias = Call | Open | Receive | Sleep | Run | Emit
Flow: TypeAlias = Generator[Step, Any, T]


@dataclass
class Contact:
    """What a client knows of its service.

    Attributes:
        made: Whether the service was there before; one that nobody has met is not waited for if nothing listens there.
        speaks_tls: Finds out whether TLS is spoken where the client does not speak it; None where there is no doubt.
    """

    made: bool = False
    speaks_tls: Callable[[], bool] | None = None


def call(method: str, request: Message, timeout_seconds: float, *, contact: Contact | None = None) -> Flow[Any]:
    """Make a unary call, and repeat it a few times while the service is unavailable.

    Args:
        method: The method's name.
        request: Its request; safe to repeat.
        timeout_seconds: Time for the answer, repetitions included.
        contact: What is known of the service; None for one that was there before.

    Raises:
        RequestError: the SDK's form of gRPC's error.
    """
    contact = contact or Contact(made=True)
    deadline = time.monotonic() + timeout_seconds
    wait, failures = _FIRST_WAIT_SECONDS, 0
    while True:
        try:
            answer = yield Call(method, request, max(0.0, deadline - time.monotonic()))
        except grpc.RpcError as error:
            failure, failures = (yield from failure_of(error, contact)), failures + 1
            pause = wait * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing
            if not _may_pass(failure, contact) or failures == TRIES or time.monotonic() + pause >= deadline:
                raise failure from error
        else:
            contact.made = True
            return answer
        yield Sleep(pause)
        wait *= 2


def failure_of(rpc_error: grpc.RpcError, contact: Contact) -> Flow[RequestError]:
    """The SDK's error for a gRPC error, and what it says of the service: all but a refused connection is a contact.

    gRPC says of a port with TLS that it was closed, and of several addresses only what the last one said.
    """
    error = from_rpc_error(rpc_error)
    if not isinstance(error, UnavailableError):
        contact.made = contact.made or not isinstance(error, DeadlineError)
        return error
    if contact.made or not error.retryable:
        return error
    if contact.speaks_tls is not None and (yield Run(contact.speaks_tls)):
        return ProtocolError("the service there speaks TLS; use https://HOST:PORT")
    contact.speaks_tls = None
    contact.made = error.reason != CONNECTION_REFUSED
    return error


def _may_pass(error: RequestError, contact: Contact) -> bool:
    if not isinstance(error, UnavailableError):
        return False
    return error.retryable and (contact.made or error.reason != CONNECTION_REFUSED)


def advance(flow: Flow[T], answer: Any, error: grpc.RpcError | None) -> Step | Finished[T]:
    """Give a flow the result of its last step, and get the next step."""
    try:
        return flow.send(answer) if error is None else flow.throw(error)
    except StopIteration as end:
        return Finished(end.value)


def select(flow: Flow[Any], *, wanted: Callable[[Any], bool], last: Callable[[Any], bool]) -> Flow[None]:
    """Filter what a flow emits: emit only wanted values, and stop after the first value that is `last`."""
    answer: Any = None
    error: grpc.RpcError | None = None
    try:
        while not isinstance(step := advance(flow, answer, error), Finished):
            answer, error = None, None
            if isinstance(step, Emit):
                if wanted(step.value):
                    yield step
                if last(step.value):
                    return
                continue
            try:
                answer = yield step
            except grpc.RpcError as raised:
                error = raised
    finally:
        flow.close()


def take(flow: Flow[Any], count: int) -> Flow[None]:
    """Emit the first values that a flow emits."""
    seen = 0

    def last(_: Any) -> bool:
        nonlocal seen
        seen += 1
        return seen >= count

    yield from select(flow, wanted=lambda _: True, last=last)


def collect(flow: Flow[Any]) -> Flow[list[Any]]:
    """Run a flow, and return what it emits."""
    found: list[Any] = []

    def keep(value: Any) -> bool:
        found.append(value)
        return False

    yield from select(flow, wanted=keep, last=lambda _: False)
    return found
