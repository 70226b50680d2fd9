"""Modules with one check taken out, to show that the tests would notice."""

import sys
import types
from pathlib import Path


def mutant(module, old, new):
    """A copy of a module in which `old`, which must be there once, is `new`."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    copy = types.ModuleType(f"{module.__name__}_mutant")
    copy.__file__ = module.__file__
    sys.modules[copy.__name__] = copy  # where dataclasses and models look their types up
    exec(compile(source.replace(old, new), module.__file__, "exec"), copy.__dict__)
    return copy
