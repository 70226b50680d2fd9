"""Where symbolic links in a folder may lead: within it, and within the hub cache that it is part of.

huggingface_hub stores a repository as `models--org--name/snapshots/{commit}/…`, with links to
`models--org--name/blobs/…`.
"""

from __future__ import annotations

import re
from pathlib import Path

_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")


def repository_of(folder: Path) -> Path | None:
    """The repository's folder in a hub cache, if a resolved folder is a snapshot or lies in one; else None."""
    for snapshot in (folder, *folder.parents):
        repository = snapshot.parent.parent
        if snapshot.parent.name == "snapshots" and _REPOSITORY.fullmatch(repository.name):
            return repository
    return None


def place_of(path: Path) -> Path | None:
    """A path with its links resolved; None if they form a loop."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def stays_in(path: Path, folder: Path) -> bool:
    """Whether a path, with links resolved, lies in a folder or in the repository that the folder is a snapshot of."""
    place, folder = place_of(path), folder.resolve()
    if place is None:
        return False
    repository = repository_of(folder)
    return place.is_relative_to(folder) or (repository is not None and place.is_relative_to(repository))
