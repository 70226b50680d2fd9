"""Whether the items of a user's task say which answer is right, as far as that can be told without the harness.

A worker has the harness render every item and checks each answer (`harness`). Here only fields are looked up, so that
what is missing shows when a job is submitted: a target that names a field, alone or as a template of nothing else.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from secateur._suggestions import close_to, did_you_mean
from secateur_service.tasks.task_files import LocalTask, TasksRefusedError

_MOST_ITEMS = 1000
_FIELD = re.compile(r"\s*\{\{\s*([A-Za-z_]\w*)\s*\}\}\s*|([A-Za-z_]\w*)")
_SHOWN_CHARACTERS = 80


def check_items(task: LocalTask, limit: int, *, has_content: bool) -> None:
    """Check the items that a task is evaluated on.

    Args:
        task: of a user.
        limit: how many of them are asked, the first ones; no more than `_MOST_ITEMS` are looked at.
        has_content: whether the files are here, and not only their sizes.

    Raises:
        TasksRefusedError: there are none, one is no item, or one does not say which answer is right.
    """
    files = task.files[task.evaluated]
    if not any(path.stat().st_size for path in files):
        names = ", ".join(path.name for path in files)
        raise TasksRefusedError(f"task {task.name} has no items, {names} is empty; put one item a line into it")
    if not has_content:
        return
    items = list(itertools.islice(task.items(task.evaluated), min(limit, _MOST_ITEMS)))
    if not items:
        raise TasksRefusedError(task.without_items(task.evaluated))
    target, choices = task.config.get("doc_to_target"), task.config.get("doc_to_choice")
    is_choice = task.config.get("output_type") == "multiple_choice"
    named = _FIELD.fullmatch(target) if isinstance(target, str) else None
    if named is None:
        return
    field = named[1] or named[2]
    if not any(field in row for _, row in items) and named[1] is None:
        if is_choice and field not in _choices(choices, items[0][1], (field,)):
            raise TasksRefusedError(_no_such_field(task.name, field, items[0][1]))
        return  # a text, and not a field
    for place, row in items:
        gold = row.get(field)
        if gold is None:
            missing = f"{place}, has no {field}, which is where task {task.name} has the right answer (doc_to_target)"
            raise TasksRefusedError(f"{missing}; add it, or take the item out")
        for answer in (gold if isinstance(gold, list) else [gold]) if is_choice else ():
            _check_answer(task.name, field, answer, _choices(choices, row, ()), place)


def _check_answer(task: str, field: str, answer: Any, choices: Sequence[Any], place: str) -> None:
    """Refuse an answer that is none of an item's choices; none are known where there are none."""
    is_index = isinstance(answer, int) or (isinstance(answer, str) and answer.isdigit() and answer not in choices)
    if not choices or (0 <= int(answer) < len(choices) if is_index else answer in choices):
        return
    found = f"{place}: {field} is {repr(answer)[:_SHOWN_CHARACTERS]}, and task {task} has {len(choices)} answers there"
    remedy = f"number them from 0 to {len(choices) - 1}" if is_index else "write one of them, or its number from 0 on"
    raise TasksRefusedError(f"{found}; {remedy}; items without a right answer cannot be scored")


def _choices(choices: Any, row: Mapping[str, Any], otherwise: Sequence[Any]) -> Sequence[Any]:
    """The answers of an item, where a list or a field has them."""
    named = _FIELD.fullmatch(choices) if isinstance(choices, str) else None
    found = row.get(named[1] or named[2]) if named else choices
    return found if isinstance(found, list) else otherwise


def _no_such_field(task: str, field: str, row: Mapping[str, Any]) -> str:
    near = close_to(field, row)
    hint = f", {did_you_mean([near])}" if near else ";"
    known = ", ".join(sorted(row))[: 4 * _SHOWN_CHARACTERS] or "no fields"
    return f"task {task}: doc_to_target is {field!r}, and its items have no such field{hint} they have {known}"
