"""What the documentation says of the code is true."""

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from secateur_service.jobs.states import TRANSITIONS
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.pruning.methods import METHODS
from secateur_service.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
JOBS = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_documented_transitions_are_those_of_the_code():
    rows = re.findall(r"^\| ([A-Z]+) \| ([A-Z, ]*)\|$", JOBS, re.MULTILINE)
    documented = {start: {end.strip() for end in ends.split(",") if end.strip()} for start, ends in rows}
    assert documented == {str(state): {str(end) for end in ends} for state, ends in TRANSITIONS.items()}


def test_every_metric_is_documented():
    registry = CollectorRegistry()
    Metrics(registry, version="1")
    documented = set(re.findall(r"`([a-z_]+)(?:\{[^`]*\})?`", JOBS))
    for family in registry.collect():
        name = family.name.removeprefix("secateur_")
        assert name in documented or f"{name}_total" in documented, name


def test_the_readme_names_every_method_and_architecture():
    for method in METHODS:
        assert f"`{method}`" in README
    spelled = README.replace(" ", "").lower()
    for model_type in ARCHITECTURES:
        assert model_type in spelled
