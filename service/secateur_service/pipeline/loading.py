"""Loads what runs a job, in a process that exists for jobs.

Libraries make half a million objects that stay to the end. Looking for garbage among them takes a sixth of the seconds
that loading takes, and a fifth of a second more with every full collection afterwards.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any


def load_pipeline() -> Callable[..., Any]:
    """Load torch, transformers and the pipeline, and leave them out of collections of garbage.

    Returns:
        `pipeline.job.run_job`.
    """
    gc.disable()
    try:
        import transformers.modeling_utils  # noqa: F401 - which transformers itself loads with the first model

        from secateur_service.pipeline.job import run_job
    finally:
        gc.freeze()
        gc.enable()
    return run_job
