"""Watching a job: every event once and in order, however often the connection or the server goes away.

The position is the sequence number of the last event passed on; after any disconnect, the watch asks for what comes
after it. A stream that ends normally without reporting the job's end counts as a disconnect too, and so does a gap in
the numbers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from secateur._convert import event_from, job_from
from secateur._errors import (
    CONNECTION_REFUSED,
    CertificateError,
    DeadlineError,
    OverloadedError,
    ProtocolError,
    RequestError,
    ServiceFaultError,
    UnavailableError,
    WaitTimeoutError,
)
from secateur._event import SnapshotEvent, ends_watch
from secateur._flow import Contact, Emit, Flow, Open, Receive, Sleep, call, failure_of
from secateur.v1 import prune_service_pb2 as service_pb

_log = logging.getLogger("secateur")
T = TypeVar("T")


@dataclass(frozen=True)
class Reconnect:
    """How a watch reconnects to a lost service.

    Attributes:
        total_seconds: How long to try without any contact before giving up.
        base_seconds: First wait; it doubles with each failed try.
        max_seconds: Longest wait.
        clock: Monotonic time in seconds.
        jitter: Random factor for each wait, so that many watchers do not reconnect at once.
    """

    total_seconds: float = 300.0
    base_seconds: float = 0.25
    max_seconds: float = 10.0
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, hides nothing

    def delay_seconds(self, failures: int, asked_seconds: float | None) -> float:
        """How long to wait after this many failures in a row; never less than the service asked for."""
        wait = min(self.max_seconds, self.base_seconds * 2.0 ** min(failures - 1, 30)) * self.jitter()
        return max(wait, asked_seconds or 0.0)


def watch(
    name: str,
    *,
    after_sequence: int | None,
    reconnect: Reconnect,
    call_timeout_seconds: float,
    timeout_seconds: float | None = None,
    contact: Contact | None = None,
) -> Flow[None]:
    """Emit a job's events until it has ended; heartbeats are not emitted.

    Args:
        name: The job.
        after_sequence: Start after this event; None starts with a snapshot.
        reconnect: How to reconnect to a lost service.
        call_timeout_seconds: Time for one response.
        timeout_seconds: Time for the whole watch; None for no limit.
        contact: What is known of the service; None for one that was there before.

    Raises:
        WaitTimeoutError: the time ran out before the job had ended.
        UnavailableError: the service was away for too long.
        RequestError: the service refused the watch.
    """
    clock, contact = reconnect.clock, contact or Contact(made=True)
    deadline = None if timeout_seconds is None else clock() + timeout_seconds
    position = after_sequence
    lost_since: float | None = None
    failures = 0
    while True:
        request = service_pb.WatchPruneJobRequest(name=name, after_sequence=position)
        remaining = None if deadline is None else max(0.0, deadline - clock())
        stream = yield Open("WatchPruneJob", request, remaining)
        try:
            while (message := (yield Receive(stream))) is not None:
                event = event_from(message)
                if not isinstance(event, SnapshotEvent) and not message.HasField("heartbeat"):
                    if position is not None and message.sequence <= position:
                        continue
                    if position is not None and message.sequence > position + 1:
                        break
                if failures:
                    _log.info("connected again, watching %s", name)
                lost_since, failures, contact.made = None, 0, True
                if not message.HasField("heartbeat"):
                    position = message.sequence
                if event is not None:
                    yield Emit(event)
                    if ends_watch(event):
                        with contextlib.suppress(grpc.RpcError):
                            yield Receive(stream)  # its end, so that the service counts the watch as complete
                        return
            contact.made = True
            lost: RequestError = UnavailableError("the service left events out")
            if message is None:
                lost = UnavailableError("the service ended the watch before the job had ended")
                if position is not None and (yield from _has_ended(name, position, call_timeout_seconds)):
                    return
        except grpc.RpcError as error:
            lost = yield from failure_of(error, contact)
        except RequestError as error:
            lost = error
        finally:
            stream.cancel()
        if deadline is not None and clock() >= deadline:
            raise WaitTimeoutError(
                f"{name} has not ended within {timeout_seconds:g} seconds; it keeps running, so wait again or cancel it"
            )
        if not _is_disconnect(lost) or (lost.reason == CONNECTION_REFUSED and not contact.made):
            raise lost
        failures += 1
        lost_since = clock() if lost_since is None else lost_since
        away = clock() - lost_since
        if away >= reconnect.total_seconds:
            raise UnavailableError(
                f"no contact with the service for {away:.0f} seconds ({lost.message}); the job is not affected, watch "
                f"it again after event {position or 0}",
                reason=lost.reason,
                metadata={"after_sequence": str(position or 0)},
            ) from lost
        delay = reconnect.delay_seconds(failures, lost.retry_after_seconds)
        if deadline is not None:
            delay = min(delay, max(0.0, deadline - clock()))
        # One line for a service that is away, however often it is asked; and one when it is back.
        level = logging.WARNING if failures == 1 else logging.DEBUG
        _log.log(level, "lost the connection while watching %s (%s); trying again", name, lost.message)
        yield Sleep(delay)


def patiently(reconnect: Reconnect, ask: Callable[[], Flow[T]], *, deadline: float = math.inf) -> Flow[T]:
    """Do what is safe to repeat, again and again while the service is away.

    Args:
        reconnect: How often, and for how long.
        ask: What to do.
        deadline: When to give up at the latest, by the clock of `reconnect`.

    Raises:
        UnavailableError: the service was away for too long.
        RequestError: the service refused it.
    """
    lost_since: float | None = None
    failures = 0
    while True:
        try:
            return (yield from ask())
        except RequestError as error:
            if not _is_disconnect(error):
                raise
            lost = error
        failures += 1
        if lost_since is None:
            lost_since = reconnect.clock()
            _log.warning("no answer (%s); trying again", lost.message)
        away = reconnect.clock() - lost_since
        if away >= reconnect.total_seconds or reconnect.clock() >= deadline:
            raise UnavailableError(
                f"gave up after {away:.0f} seconds without an answer ({lost.message}); jobs are not affected",
                reason=lost.reason,
            ) from lost
        delay = reconnect.delay_seconds(failures, lost.retry_after_seconds)
        yield Sleep(min(delay, max(0.0, deadline - reconnect.clock())))


def _has_ended(name: str, position: int, timeout_seconds: float) -> Flow[bool]:
    """Whether the job has ended with no event after `position`: the watch started at the very end."""
    answer = yield from call("GetPruneJob", service_pb.GetPruneJobRequest(name=name), timeout_seconds)
    job = job_from(answer)
    return job.state.is_terminal and job.last_sequence <= position


def _is_disconnect(error: RequestError) -> bool:
    """Whether an error says nothing about the job or the request, so that trying again makes sense."""
    if isinstance(error, CertificateError | ProtocolError):
        return False
    if isinstance(error, UnavailableError | DeadlineError):
        return True
    if isinstance(error, OverloadedError):
        return error.retry_after_seconds is not None
    # Proxies and stopping servers reset streams without saying why.
    resets = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED)
    return isinstance(error, ServiceFaultError) and error.code in resets and not error.metadata
