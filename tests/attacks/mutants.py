"""Modules with one check taken out, to show that the tests would notice."""

import sys
import types
from pathlib import Path


def mutant(module, old, new):
    """A copy of a module in which `old`, which must be there once, is `new`."""
    return mutant_of([module], old, new)


def mutant_of(modules, old, new):
    """A copy of the last of some modules, which uses copies of those before it; `old` must be in one of them, once."""
    sources = {module: Path(module.__file__).read_text(encoding="utf-8") for module in modules}
    count = sum(source.count(old) for source in sources.values())
    assert count == 1, f"{old!r} is there {count} times"
    for module, original in sources.items():
        source = original.replace(old, new)
        copy = types.ModuleType(f"{module.__name__}_mutant")
        copy.__file__ = module.__file__
        for other in modules:
            source = source.replace(f"from {other.__name__} import", f"from {other.__name__}_mutant import")
        sys.modules[copy.__name__] = copy  # where dataclasses and models look their types up
        exec(compile(source, module.__file__, "exec"), copy.__dict__)
    return copy
