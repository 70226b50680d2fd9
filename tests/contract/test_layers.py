"""Which part may import which: arrows only go down. docs/architecture.md draws the same."""

import ast
from pathlib import Path

import pytest

SERVICE = Path(__file__).parents[2] / "service" / "secateur_service"

# From what uses to what is used. Parts of a line do not import each other.
LAYERS = (
    "__main__",
    "commands",
    "app agent library",
    "hosting",
    "api",
    "inspection",
    "worker capacity",
    "control metrics",
    "executors admission",
    "pipeline",
    "sizing",
    "jobs",
    "spec evaluation",
    "sources",
    "models artifacts tasks",
    "calibration",
    "pruning records",
    "variables",
    "telemetry health settings",
    "accounts agent_classes bounded destination durable faults links parents private_files",
    "errors",
    "__init__",
)
DEPTH = {part: depth for depth, parts in enumerate(LAYERS) for part in parts.split()}


def part_of(module):
    """The folder or the file directly below the service that a module lies in."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(source):
    """The modules of the service that a file imports, also late, and also for types only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "secateur_service":
            if "." in node.module:
                yield node.module
            else:
                names = {alias.name for alias in node.names}
                yield from (f"{node.module}.{name}" if name in DEPTH else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "secateur_service")


def uphill(sources):
    """What no part may import and one does, by file; `sources` are texts by their path below the service."""
    found = []
    for path, source in sources.items():
        own = path.parts[0].removesuffix(".py")
        found += [
            f"{path} imports {module}"
            for module in imported(source)
            if part_of(module) != own and DEPTH[part_of(module)] <= DEPTH[own]
        ]
    return found


@pytest.fixture(scope="module")
def sources():
    return {path.relative_to(SERVICE): path.read_text(encoding="utf-8") for path in SERVICE.rglob("*.py")}


def test_every_part_has_its_place(sources):
    assert {path.parts[0].removesuffix(".py") for path in sources} == set(DEPTH)


def test_arrows_only_go_down(sources):
    assert uphill(sources) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("jobs/store.py", "from secateur_service.control.dispatcher import Dispatcher"),
        ("artifacts/s3.py", "from secateur_service import app"),
        ("pruning/solver.py", "import secateur_service.pipeline.job"),
        ("errors.py", "def late():\n    from secateur_service.settings import Settings"),
        ("metrics/registry.py", "from secateur_service.control.janitor import Janitor"),
    ],
)
def test_an_arrow_that_goes_up_or_sideways_is_found(sources, path, line):
    assert len(uphill({**sources, Path(path): f"{sources[Path(path)]}\n{line}\n"})) == 1
