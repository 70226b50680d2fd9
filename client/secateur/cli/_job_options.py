"""A flag for every option of a job that is one value, out of the table that the SDK has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_type_hints

import typer

from secateur._options import OPTIONS, SpecOptions

SPELLED_OTHERWISE = {
    "languages": "language",
    "generation": "self_generated",
    "overrides": "override",
    "vocabulary_weights": "vocabulary_weight",
    "keep_texts": "keep_text",
    "shrink_axes": "shrink_axis",
    "keep_languages": "keep_language",
    "tasks": "task",
    "limits": "limit",
    "evaluation_languages": "evaluation_language",
}
"""Options of more than one value, with the flags that `submit` has for them."""


def with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags; it takes their values as `**options`, None where one is not given."""
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *_flags()])  # type: ignore[attr-defined]
    return command


def _flags() -> Iterator[inspect.Parameter]:
    kinds = get_type_hints(SpecOptions)
    for name, option in OPTIONS.items():
        if name not in SPELLED_OTHERWISE:
            flag: Any = typer.Option(help=option.help, show_default=option.default or False)
            yield inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kinds[name], flag]
            )
