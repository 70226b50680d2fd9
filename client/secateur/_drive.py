"""Runs the steps of flows: `Driver` in the caller's thread, `AsyncDriver` on the caller's event loop.

Only these two differ between the clients. Neither starts its own threads or loops (except for file transfers of the
asynchronous client), so Ctrl-C and cancellation end a step at once and leave no call behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from secateur._channel import Connection
from secateur._errors import ClientClosedError
from secateur._flow import Call, Emit, Finished, Flow, Open, Receive, Run, Sleep, Step, advance
from secateur._tracing import traced_call
from secateur.v1.prune_service_pb2_grpc import PruneServiceStub

T = TypeVar("T")
_Outcome: TypeAlias = tuple[Any, grpc.RpcError | None]
_CLOSED = "the client is closed; make another, or keep its `with` block open longer"


class Driver:
    """Runs flows in the calling thread; thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._metadata = connection.metadata
        self._channel: Any = (
            grpc.insecure_channel(connection.target, connection.options)
            if connection.credentials is None
            else grpc.secure_channel(connection.target, connection.credentials, connection.options)
        )
        self._stub = PruneServiceStub(self._channel)
        self._closed = False

    def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        outcome: _Outcome = None, None
        try:
            while not isinstance(step := advance(flow, *outcome), Finished):
                outcome = self._perform(step)
            return step.value
        finally:
            flow.close()

    def iterate(self, flow: Flow[Any]) -> Iterator[Any]:
        """Run a flow and yield what it emits."""
        outcome: _Outcome = None, None
        try:
            while not isinstance(step := advance(flow, *outcome), Finished):
                if isinstance(step, Emit):
                    yield step.value
                outcome = self._perform(step)
        finally:
            flow.close()

    def close(self) -> None:
        """Close the connection and end all calls."""
        self._closed = True
        self._channel.close()

    def _perform(self, step: Step) -> _Outcome:
        try:
            match step:
                case Call(method, request, timeout_seconds):
                    self._check_open()
                    with traced_call(method, self._metadata) as metadata:
                        return getattr(self._stub, method)(request, timeout=timeout_seconds, metadata=metadata), None
                case Open(method, request, timeout_seconds):
                    self._check_open()
                    ask = getattr(self._stub, method)
                    return ask(request, timeout=timeout_seconds, metadata=self._metadata), None
                case Receive(stream):
                    return next(stream, None), None  # type: ignore[call-overload]
                case Sleep(seconds):
                    time.sleep(seconds)
                case Run(function):
                    return function(), None
                case Emit():
                    pass
        except grpc.RpcError as error:
            if self._closed:
                raise ClientClosedError(_CLOSED) from None
            return None, error
        return None, None

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError(_CLOSED)


class AsyncDriver:
    """Runs flows on the current event loop."""

    def __init__(self, connection: Connection) -> None:
        self._metadata = connection.metadata
        self._channel: Any = (
            grpc.aio.insecure_channel(connection.target, connection.options)
            if connection.credentials is None
            else grpc.aio.secure_channel(connection.target, connection.credentials, connection.options)
        )
        self._stub = PruneServiceStub(self._channel)
        self._closed = False

    async def run(self, flow: Flow[T]) -> T:
        """Run a flow and return its result."""
        outcome: _Outcome = None, None
        try:
            while not isinstance(step := advance(flow, *outcome), Finished):
                outcome = await self._perform(step)
            return step.value
        finally:
            flow.close()

    async def iterate(self, flow: Flow[Any]) -> AsyncIterator[Any]:
        """Run a flow and yield what it emits."""
        outcome: _Outcome = None, None
        try:
            while not isinstance(step := advance(flow, *outcome), Finished):
                if isinstance(step, Emit):
                    yield step.value
                outcome = await self._perform(step)
        finally:
            flow.close()

    async def close(self) -> None:
        """Close the connection and end all calls."""
        self._closed = True
        await self._channel.close()

    async def _perform(self, step: Step) -> _Outcome:
        try:
            match step:
                case Call(method, request, timeout_seconds):
                    self._check_open()
                    with traced_call(method, self._metadata) as metadata:
                        ask = getattr(self._stub, method)
                        return await ask(request, timeout=timeout_seconds, metadata=metadata), None
                case Open(method, request, timeout_seconds):
                    self._check_open()
                    ask = getattr(self._stub, method)
                    return ask(request, timeout=timeout_seconds, metadata=self._metadata), None
                case Receive(stream):
                    message = await stream.read()  # type: ignore[attr-defined]
                    return (None if message is grpc.aio.EOF else message), None
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                case Run(function):
                    return await asyncio.to_thread(function), None
                case Emit():
                    pass
        except grpc.RpcError as error:
            return None, error
        except asyncio.CancelledError:
            # When the channel is closed, gRPC reports open calls as if their task had been cancelled.
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ClientClosedError(_CLOSED) from None
            raise
        return None, None

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError(_CLOSED)
