"""Operations without input and output, so that the logic exists once for the synchronous and the asynchronous client.

An operation is a generator, a `Flow`: it yields steps that need the world (a call, a message of a stream, a sleep)
and is sent what came of them. `_drive` performs the steps, in a thread or on an event loop. A failed step is raised
inside the flow as gRPC's error, so that a flow reads like ordinary code.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import grpc
from google.protobuf.message import Message

from secateur._errors import from_rpc_error

T = TypeVar("T")


class Stream(Protocol):
    """An open stream of answers, of either kind of channel."""

    def cancel(self) -> bool:
        """End the stream; harmless where it has ended."""


@dataclass(frozen=True)
class Call:
    """Ask for one answer; what comes of it is the answer."""

    method: str
    request: Message
    timeout_seconds: float


@dataclass(frozen=True)
class Open:
    """Open a stream of answers; what comes of it is a `Stream`."""

    method: str
    request: Message
    timeout_seconds: float | None


@dataclass(frozen=True)
class Receive:
    """Wait for a stream's next message; what comes of it is the message, or None when the stream ended well."""

    stream: Stream


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Run:
    """Run what blocks on files or sockets; what comes of it is its return value, and what it raises ends the flow."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hand a value to the caller that iterates; lost where the caller only wants the flow's result."""

    value: Any


@dataclass(frozen=True)
class Finished(Generic[T]):
    """The flow has returned."""

    value: T


Step: TypeAlias = Call | Open | Receive | Sleep | Run | Emit
Flow: TypeAlias = Generator[Step, Any, T]


def call(method: str, request: Message, timeout_seconds: float) -> Flow[Any]:
    """Ask for one answer.

    Raises:
        RequestError: in place of gRPC's error.
    """
    try:
        return (yield Call(method, request, timeout_seconds))
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def advance(flow: Flow[T], answer: Any, error: grpc.RpcError | None) -> Step | Finished[T]:
    """Tell a flow what came of its last step, and get the next one."""
    try:
        return flow.send(answer) if error is None else flow.throw(error)
    except StopIteration as end:
        return Finished(end.value)


def select(flow: Flow[Any], *, wanted: Callable[[Any], bool], last: Callable[[Any], bool]) -> Flow[None]:
    """Emit of what a flow emits only what is wanted, up to the first value that is the last."""
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
