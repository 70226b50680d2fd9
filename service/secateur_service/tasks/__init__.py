"""Tasks with right and wrong answers, as lm-evaluation-harness defines them. Nothing here imports torch.

The harness itself (the extra `tasks`) is loaded by `harness` alone, and only in a worker whose job has tasks.
"""

from __future__ import annotations

import importlib.util


def has_harness() -> bool:
    """Whether lm-evaluation-harness is installed; does not load it."""
    return importlib.util.find_spec("lm_eval") is not None
