"""`torchrun -m secateur_service run …`: one job, whoever is used to starting several processes that way.

A job starts its helpers itself, when it has come to where they help. So torchrun's first process runs it, in as many
processes as torchrun has started, and the others have nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secateur_service.settings import MAX_PROCESSES

# torchrun sets it, and what sets only RANK and WORLD_SIZE may mean other machines.
_MARK = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True)
class Place:
    """What this process is to torchrun.

    Attributes:
        is_first: whether it runs the job.
        count: how many processes there are.
    """

    is_first: bool
    count: int


def place_in(environment: Mapping[str, str]) -> Place | None:
    """What this process is to torchrun; None if it was not started by it.

    Raises:
        ValueError: there are more processes than can help, or they are on several machines.
    """
    if _MARK not in environment:
        return None
    rank, count, here = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if here != count:
        raise ValueError(f"torchrun: {count} processes on several machines; a job runs on one, leave out --nnodes")
    if count > MAX_PROCESSES:
        raise ValueError(f"torchrun: {count} processes are too many for a job; give --nproc-per-node {MAX_PROCESSES}")
    return Place(rank == 0, count)
