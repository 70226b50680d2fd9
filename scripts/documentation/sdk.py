"""docs/sdk.md: what `import secateur` gives, from its docstrings."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from typing import Any

import secateur
from documentation.text import code, docstring, generated, paragraph, table
from secateur._options import OPTIONS

_HEAD = """
# The Python SDK

`pip install .` installs it; it needs no PyTorch. What follows is written from its docstrings, which editors show too;
everything is typed. [README](../README.md#python) has the shortest use, [comparing](comparing.md) has sweeps and gates,
[settings](settings.md#the-client) how the client finds its service.

`secateur.AsyncClient`, `AsyncJobHandle` and `AsyncSweep` have the same methods as coroutines, and `async for` where
there are iterators. A method that talks to the service raises a `secateur.RequestError` if it is refused or the service
cannot be reached.

A program that has `secateur[service]` can prune without a service:

```python
from pathlib import Path

import secateur
from secateur_service.library import prune

spec = secateur.prune_spec(
    "file:///models/my-model", corpus="file:///corpora/calibration", languages=["de"], sparsity=0.5
)
prune(spec, Path("out"))  # what `secateur-service run` does
```
"""
_GROUPS: dict[str, tuple[str, ...]] = {
    "The client": ("Client", "JobHandle", "Sweep", "ClientConfig"),
    "Functions": ("prune_spec", "gate"),
    "Jobs": (
        *("Job", "JobState", "JobStage", "Progress", "Failure", "Plan", "Estimate", "Bound"),
        *("JobResult", "PublishedResult", "LanguageResult", "Artifact", "DownloadProgress", "ServiceInfo"),
        "Architecture",
        *("CorpusPreset", "SpecWarning"),
    ),
}
_ASYNC = ("AsyncClient", "AsyncJobHandle", "AsyncSweep")


def page() -> str:
    """The page."""
    names = set(secateur.__all__) - set(_ASYNC) - {"SpecOptions"}
    groups = dict(_GROUPS)
    grouped = {name for members in groups.values() for name in members}
    errors = [name for name in sorted(names - grouped) if _is_error(name)]
    events = [name for name in sorted(names - grouped) if name.endswith("Event")]
    rest = sorted(names - grouped - set(errors) - set(events))
    groups |= {"Events": tuple(events), "Reports, comparisons and gates": tuple(rest)}
    parts = [generated("the docstrings of client/secateur"), _HEAD.strip("\n")]
    for title, members in groups.items():
        parts.append(f"## {title}")
        for name in members:
            parts += _entry(name)
        if title == "Functions":
            parts += ["### The options of a specification", _options()]
    parts += ["## Errors", code(_tree()), *(_error(name) for name in errors)]
    return "\n\n".join(parts) + "\n"


def _is_error(name: str) -> bool:
    value = getattr(secateur, name)
    return isinstance(value, type) and issubclass(value, Exception)


def _entry(name: str) -> Iterator[str]:
    value: Any = getattr(secateur, name)
    yield f"### {name}"
    if inspect.isfunction(value):
        yield code(f"secateur.{name}{_signature(value)}")
        yield docstring(value.__doc__)
        return
    yield docstring(value.__doc__)
    if issubclass(value, enum.Enum):
        yield "Values: " + ", ".join(f"`{member.name}`" for member in value) + "."
        return
    for method_name, method in vars(value).items():
        if method_name.startswith("_"):
            continue
        if isinstance(method, property):
            yield _titled(f"**`{method_name}`**:", method.__doc__)
        elif isinstance(method, classmethod | staticmethod) or inspect.isfunction(method):
            function = method.__func__ if isinstance(method, classmethod | staticmethod) else method
            yield f"#### {name}.{method_name}"
            yield code(f"{method_name}{_signature(function)}")
            yield docstring(function.__doc__)


def _signature(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [parameter for name, parameter in signature.parameters.items() if name not in ("self", "cls")]
    text = str(signature.replace(parameters=parameters))
    return re.sub(r"(?:collections\.abc|typing|pathlib|secateur\.\w+)\.", "", text).replace("'", "")


def _options() -> str:
    rows = [(f"`{name}`", f"`{'.'.join(option.path)}`", option.default) for name, option in OPTIONS.items()]
    return (
        "`prune_spec` and `Client.prune` take these names for fields of a [specification](specification.md); the "
        "flags\nof `secateur submit` are the same with dashes, or spelled as [there](cli.md#secateur-submit).\n\n"
        + table(("option", "field", "default"), rows)
    )


def _tree() -> str:
    """The tree of errors as the module draws it."""
    text = inspect.getdoc(inspect.getmodule(secateur.SecateurError)) or ""
    return next(block for block in text.split("\n\n") if "SecateurError\n" in block)


def _error(name: str) -> str:
    value: Any = getattr(secateur, name)
    reason = f" (reason `{value.reason}`)" if "reason" in vars(value) else ""
    return _titled(f"**`{name}`**{reason}:", value.__doc__)


def _titled(title: str, text: str | None) -> str:
    first, *rest = docstring(text).split("\n\n")
    return "\n\n".join([paragraph(f"{title} {first}"), *rest])
