"""What `forking` forks off a process: it has loaded what most of them need.

None of that is ever garbage. To look for garbage among half a million objects takes a process a fifth of a second every
time, and one that was forked copies the memory in which they lie: they are left out.
"""

import gc
import importlib

from secateur_service.pipeline.loading import load_pipeline

MODULES = (
    "secateur.cli",
    "secateur_service.commands.run",
    "support.forking",
    "support.toy_worker",
    "transformers.models.llama.modeling_llama",
)

load_pipeline()
for name in MODULES:
    importlib.import_module(name)
gc.freeze()
