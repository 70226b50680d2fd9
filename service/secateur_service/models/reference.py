"""References to folders of models and corpora, and which of them may be read.

A reference is a `file://` URI. A server reads only below its configured roots; who runs `secateur-service run` owns
the machine, and no root is needed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit


class ReferenceRefusedError(ValueError):
    """The reference is malformed, or may not be read; the message names the remedy."""


def resolve_folder(uri: str, roots: Sequence[Path] | None) -> Path:
    """The folder that a `file://` URI names, with symbolic links resolved.

    Args:
        uri: `file:///absolute/path`.
        roots: the folders below which reading is allowed; None allows every folder.

    Raises:
        ReferenceRefusedError: another scheme, a relative path, a path outside the roots, or no such folder. Outside
            the roots the message is the same whether the folder exists or not.
    """
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise ReferenceRefusedError(f"unknown scheme {parts.scheme or '(none)'!r}; use file:///absolute/path")
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ReferenceRefusedError("a file URI has no host, query or fragment; use file:///absolute/path")
    raw = unquote(parts.path)
    if not raw.startswith("/") or "\0" in raw:
        raise ReferenceRefusedError("not an absolute path; use file:///absolute/path")
    try:
        path = Path(raw).resolve()
    except (OSError, RuntimeError) as error:
        raise ReferenceRefusedError("the path cannot be resolved; check it for loops and over-long names") from error
    if roots is not None and not any(path.is_relative_to(root.resolve()) for root in roots):
        allowed = ", ".join(str(root) for root in roots) or "none is configured, set SECATEUR_FILE_ROOTS"
        raise ReferenceRefusedError(f"outside the folders that this service may read ({allowed})")
    if not os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir it is False for names that no system call takes
        raise ReferenceRefusedError(f"no such folder: {path}")
    return path
