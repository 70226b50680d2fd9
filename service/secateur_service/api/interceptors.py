"""Wraps every call: checks the token, sets a request id, traces, measures, logs, and converts errors for the wire.

One interceptor does all six, because they share the outcome of the call and their order matters: the id is bound before
anything is logged, and the error is translated before its code is counted. A caller without a token is counted and
logged like any other, but nothing that it sent is parsed.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from secateur_service.api import errors
from secateur_service.api.spans import call_span, tell_code
from secateur_service.api.tokens import CALLER, Tokens
from secateur_service.errors import FieldViolation, InvalidRequestError, ServiceError, UnauthenticatedError
from secateur_service.metrics.registry import Metrics

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Probes arrive every few seconds; a line for each would bury the rest.
_QUIET_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.")
# Probes have no token.
_OPEN_SERVICES = ("/grpc.health.v1.Health/",)

_log = structlog.get_logger(__name__)

Caller: TypeAlias = str | UnauthenticatedError | None
"""The name of the call's token, why the call is refused, or None if no token is needed."""


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Wraps every method of the server."""

    def __init__(self, metrics: Metrics, tokens: Tokens | None) -> None:
        """Prepare.

        Args:
            metrics: where calls are counted and timed.
            tokens: who may call; None allows everybody.
        """
        self._metrics = metrics
        self._tokens = tokens

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Wrap the handler of a method; an unknown method has none and stays UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        caller = self._caller_of(method, handler_call_details.invocation_metadata or ())
        once, many = partial(self._answer_once, method, caller), partial(self._answer_many, method, caller)
        kinds = {
            (False, False): (grpc.unary_unary_rpc_method_handler, once, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, many, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, once, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, many, handler.stream_stream),
        }
        make, wrap, behaviour = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        return make(wrap(_parsing(handler, behaviour)), None, handler.response_serializer)

    def _caller_of(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """The caller, or why the call is refused."""
        if self._tokens is None or method.startswith(_OPEN_SERVICES):
            return None
        try:
            return self._tokens.caller_of(metadata)
        except UnauthenticatedError as error:
            return error

    def _answer_once(
        self, method: str, caller: Caller, behaviour: Callable[..., Any]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            started = time.monotonic()
            try:
                with _span(method, caller, context):
                    async with self._around(method, caller, context):
                        return await behaviour(request, context)
            finally:
                self._metrics.rpc_duration.labels(method=method).observe(time.monotonic() - started)

        return answer

    def _answer_many(
        self, method: str, caller: Caller, behaviour: Callable[..., Any]
    ) -> Callable[[Any, Any], Awaitable[None]]:
        async def answer(request: Any, context: Any) -> None:
            async with self._around(method, caller, context):
                answers = behaviour(request, context)
                if inspect.isasyncgen(answers):
                    async for message in answers:
                        await context.write(message)
                else:
                    await answers

        return answer

    @asynccontextmanager
    async def _around(self, method: str, caller: Caller, context: Any) -> AsyncIterator[None]:
        request_id = _request_id(context)
        trailers = ((REQUEST_ID_KEY, request_id),)
        code = grpc.StatusCode.OK
        started = time.monotonic()
        bound = {"request_id": request_id, "method": method}
        if isinstance(caller, str):
            bound["caller"] = caller
            CALLER.set(caller)  # visible only in this call's task
        refusal = _refusal(caller, context)
        with structlog.contextvars.bound_contextvars(**bound):
            context.set_trailing_metadata(trailers)
            try:
                try:
                    _check(caller)
                    yield
                except ServiceError as error:
                    status = errors.status_of(error)
                    code = errors.code_of(status)
                    await _abort(context, status, trailers)
                except grpc.aio.AbortError:
                    code = _aborted_code(context)
                    raise
                except asyncio.CancelledError:
                    code = grpc.StatusCode.CANCELLED
                    raise
                except Exception as error:  # noqa: BLE001  # last resort: callers get an incident id, the log the rest
                    status = errors.status_of_any(error)
                    code = errors.code_of(status)
                    await _abort(context, status, trailers)
            finally:
                tell_code(code)
                self._metrics.rpc_requests.labels(method=method, code=code.name).inc()
                log = _log.debug if method.startswith(_QUIET_SERVICES) and not refusal else _log.info
                log("call", code=code.name, duration_seconds=round(time.monotonic() - started, 6), **refusal)


def _parsing(handler: Any, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler's behaviour so that it takes bytes and parses them where errors are translated.

    gRPC itself would parse them before the token is checked, and log a traceback for malformed bytes.
    """

    def parse(content: bytes) -> Any:
        try:
            return handler.request_deserializer(content)
        except DecodeError as error:
            problem = "the bytes that were sent are no message of this method; was the client made for another version?"
            raise InvalidRequestError([FieldViolation("", problem)], reason="MALFORMED_REQUEST") from error

    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for content in requests:
            yield parse(content)

    def behave(request: Any, context: Any) -> Any:
        return behaviour(parsed(request) if handler.request_streaming else parse(request), context)

    return behave


def _span(method: str, caller: Caller, context: Any) -> AbstractContextManager[None]:
    """A span, except for probes and for callers without a valid token, whose calls belong to none of our traces."""
    if method.startswith(_QUIET_SERVICES) or isinstance(caller, UnauthenticatedError):
        return nullcontext()
    return call_span(method, context.invocation_metadata() or ())


def _check(caller: Caller) -> None:
    if isinstance(caller, UnauthenticatedError):
        raise caller


def _refusal(caller: Caller, context: Any) -> dict[str, str]:
    """Log fields for a refused caller."""
    if not isinstance(caller, UnauthenticatedError):
        return {}
    return {"reason": caller.reason, "peer": context.peer(), **caller.metadata}


async def _abort(context: Any, status: status_pb2.Status, trailers: tuple[tuple[str, str], ...]) -> None:
    metadata = (*trailers, (errors.DETAILS_KEY, status.SerializeToString()))
    await context.abort(errors.code_of(status), status.message, metadata)


def _aborted_code(context: Any) -> grpc.StatusCode:
    """The code with which a library's handler aborted; grpc.aio keeps it as a number."""
    value = context.code()
    number = value.value[0] if isinstance(value, grpc.StatusCode) else value
    return next((code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN)


def _request_id(context: Any) -> str:
    """The caller's request id if it is safe to log, else a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8)
