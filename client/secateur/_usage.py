"""Wrong values of flags in the product's own words, for both commands: typer passes on those of its validator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from secateur._findings import worded

RATIO = "RATIO"
"""Metavar of flags that take a ratio to what was before."""


class WordedGroup(TyperGroup):
    """A group of commands that say what a flag takes, with an example and what may have been meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the flags before the command."""
        with _worded():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Read the flags of the command, and run it."""
        with _worded():
            return super().invoke(ctx)


@contextmanager
def _worded() -> Iterator[None]:
    try:
        yield
    except typer.BadParameter as error:
        found = getattr(error.__cause__, "errors", None)  # of pydantic, where typer has it
        if found is not None:
            ratio = getattr(error.param, "metavar", None) == RATIO
            error.message = "; ".join(worded(finding, ratio=ratio) for finding in found())
        raise
