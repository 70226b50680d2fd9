"""Admits specifications in processes that are killed if they use too much, take too long, or nobody waits any more."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from secateur._foreign import detail_of
from secateur_service import errors
from secateur_service.admission import Admission
from secateur_service.artifacts.instrumented import RequestCounter
from secateur_service.errors import FieldViolation, InvalidSpecError, ServiceError, TransientError
from secateur_service.inspection.budget import Budget
from secateur_service.inspection.children import Child, Nursery
from secateur_service.inspection.shares import Shares
from secateur_service.models.support import Support
from secateur_service.records.decoding import decode
from secateur_service.records.needs import Capacity, Needs
from secateur_service.records.result import Estimate
from secateur_service.settings import Settings
from secateur_service.spec import PruneSpec

SMALL = Budget(seconds=120.0, cpu_seconds=20, memory_bytes=32 << 20)
"""Enough for nearly every model; the deadline allows for slow networks."""
LARGE = Budget(seconds=120.0, cpu_seconds=20, memory_bytes=768 << 20)
"""For models that need more memory: Gemma's tokenizer takes 600 MiB when transformers loads it."""

_WAITING_PER_CALLER = 256
_REMEMBERED = 4096
_FIRST = "model.uri"  # inspected first

_log = structlog.get_logger(__name__)


@dataclass
class _Lane:
    """Slots for similar work: work that may wait for a network never delays work on local files.

    Attributes:
        idle: children that have answered and can take another request.
    """

    shares: Shares
    budget: Budget
    idle: list[Child] = field(default_factory=list)


class _ExhaustedError(Exception):
    """A child needed more memory than it may have; the text is the field that it was inspecting."""


class InspectionPool:
    """Belongs to one event loop.

    There are eleven children in all: ten with little memory, enough for nearly every model, and one with much, which
    repeats inspections that need more.

    Args:
        settings: what specifications may name, and how to reach it.
        counter: counts the requests to object stores that children make.
        elsewhere: what agents have beyond the slots of this server, see `AccessPolicy`; may take a moment.
        small: budget of the ten.
        large: budget of the one.
    """

    def __init__(
        self,
        settings: Settings,
        counter: RequestCounter,
        *,
        elsewhere: Callable[[], Collection[Capacity]] = tuple,
        small: Budget = SMALL,
        large: Budget = LARGE,
    ) -> None:
        self._nursery = Nursery(settings)
        self._counter = counter
        self._elsewhere = elsewhere
        self._here = _lane(6, small)
        self._away = _lane(4, small)
        self._large = _lane(1, large)
        self._needs_much: OrderedDict[str, None] = OrderedDict()
        self._passed: OrderedDict[str, str] = OrderedDict()

    def open(self) -> None:
        """Start up; calls that come earlier are answered when it is ready."""
        self._nursery.open()

    async def close(self) -> None:
        """End all children."""
        await self._nursery.close()

    async def admit(self, data: Mapping[str, Any], caller: str) -> Admission:
        """Check a specification, see `admission.admit`; cancelling the call kills its child at once.

        Args:
            data: the specification.
            caller: the caller whose share is used.

        Raises:
            InvalidSpecError: rules are broken (lists all of them), or something takes too much to inspect.
            TransientError: what it names cannot be reached, or not in time.
            OverloadedError: too many of the caller's calls are already waiting.
        """
        named = _named(data)
        if named in self._needs_much:
            return await self._inspect(self._large, data, named, caller)
        try:
            return await self._inspect(self._away if _is_away(data) else self._here, data, named, caller)
        except _ExhaustedError:
            _keep(self._needs_much, named, None)
            return await self._inspect(self._large, data, named, caller)

    async def support(self, model_type: str, caller: str) -> Support:
        """What is known of a type of models.

        Raises:
            TransientError: no process can be started, or it took too long.
            OverloadedError: too many of the caller's calls are already waiting.
        """
        answer = await self._asked(self._large, {"architecture": model_type}, caller)
        self._count(answer)
        return decode(Support, answer["support"])

    async def _inspect(self, lane: _Lane, data: Mapping[str, Any], named: str, caller: str) -> Admission:
        elsewhere = [asdict(capacity) for capacity in await asyncio.to_thread(self._elsewhere)]
        request = {"spec": data, "passed": self._passed.get(named), "elsewhere": elsewhere}
        answer = await self._asked(lane, request, caller)
        return self._admission(answer, named)

    async def _asked(self, lane: _Lane, request: Mapping[str, Any], caller: str) -> dict[str, Any]:
        """The answer of a child of this lane."""
        async with lane.shares.slot(caller):
            while True:
                is_used = bool(lane.idle)
                try:
                    child = lane.idle.pop() if is_used else await self._nursery.start(lane.budget.memory_bytes)
                except OSError as error:
                    raise TransientError(f"no process can be started to inspect it: {detail_of(error)}") from error
                if child.ended.done():
                    continue
                try:
                    return await self._answer(lane, child, request)
                except _ExhaustedError as error:
                    if not is_used:  # in a used child, earlier inspections may have taken the memory
                        if lane is self._large:
                            raise _too_much(str(error), f"{lane.budget.memory_bytes >> 20} MiB of memory") from None
                        raise

    async def _answer(self, lane: _Lane, child: Child, request: Mapping[str, Any]) -> dict[str, Any]:
        """The child's answer."""
        budget = lane.budget
        try:
            async with asyncio.timeout(budget.seconds):
                message = await child.ask({**request, "cpu_seconds": budget.cpu_seconds})
        except TimeoutError:
            place = child.place or _FIRST
            self._nursery.kill(child)
            raise TransientError(
                f"{place}: inspecting what it names took more than {budget.seconds:.0f} s; try again later",
                reason="INSPECTION_TIMEOUT",
            ) from None
        except (EOFError, OSError):
            place = child.place or _FIRST
            code = await child.exit_code()
            child.close()
            _log.warning("a process that inspected a specification has ended", exit_code=code, field=place)
            if code == -signal.SIGXCPU:
                raise _too_much(place, f"{budget.cpu_seconds} s of processor time") from None
            raise _ExhaustedError(place) from None
        except BaseException:  # the caller is gone
            self._nursery.kill(child)
            raise
        if "exhausted" in message:
            place = child.place or _FIRST
            child.close()
            raise _ExhaustedError(place)
        lane.idle.append(child)
        return message

    def _count(self, answer: Mapping[str, Any]) -> None:
        """Count the requests that a child made to object stores."""
        for operation, outcome, count in answer["requests"]:
            for _ in range(count):
                self._counter.count_request(operation, outcome)
        for direction, size_bytes in answer["bytes"]:
            self._counter.count_bytes(direction, size_bytes)

    def _admission(self, answer: Mapping[str, Any], named: str) -> Admission:
        """The admission in an answer.

        Raises:
            ServiceError: the child raised it.
        """
        self._count(answer)
        if "violations" in answer:
            raise InvalidSpecError([FieldViolation(*violation) for violation in answer["violations"]])
        if "error" in answer:
            error = answer["error"]
            kind: type[ServiceError] = getattr(errors, error["kind"])
            raise kind(error["message"], reason=error["reason"], metadata=error["metadata"])
        if "defect" in answer:
            raise RuntimeError(answer["defect"])
        _keep(self._passed, named, answer["model_identity"])
        return Admission(
            PruneSpec.model_validate(answer["resolved"]),
            decode(Estimate, answer["estimate"]),
            decode(Needs, answer["needs"]),
            answer["model_identity"],
        )


def _lane(slots: int, budget: Budget) -> _Lane:
    share = max(1, slots // 2)
    return _Lane(
        Shares("specifications", slots=slots, per_caller=share, waiting_per_caller=_WAITING_PER_CALLER), budget
    )


def _too_much(at: str, what: str) -> InvalidSpecError:
    remedy = "name something smaller, or check that it is what it should be"
    return InvalidSpecError([FieldViolation(at, f"inspecting what it names takes more than {what}; {remedy}")])


def _is_away(data: Mapping[str, Any]) -> bool:
    """Whether anything that the specification names may have to be asked for over a network."""
    parts = [
        part for name in ("model", "calibration", "evaluation", "output") if isinstance(part := data.get(name), Mapping)
    ]
    references = [part[key] for part in parts for key in ("uri", "corpus", "destination") if key in part]
    presets = "corpus" not in (data.get("calibration") or {})
    return presets or not all(str(reference).startswith("file:") for reference in references)


def _named(data: Mapping[str, Any]) -> str:
    """The model that a specification names, as a key of bounded size."""
    return hashlib.sha256(json.dumps(data.get("model"), sort_keys=True).encode()).hexdigest()


def _keep(remembered: OrderedDict[str, Any], key: str, value: Any) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > _REMEMBERED:
        remembered.popitem(last=False)
