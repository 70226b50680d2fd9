"""What the documentation says of the code is true."""

import ast
import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from typer.main import get_command

from secateur._grid import grid_of
from secateur._options import OPTIONS, SpecOptions
from secateur._spec import parse_yaml, spec_message
from secateur.cli._app import app
from secateur.cli._exit import MEANINGS, ExitCode
from secateur.cli._job_options import SPELLED_OTHERWISE
from secateur_service.api.conversion import spec_to_dict
from secateur_service.calibration.mixing import DEFAULT_TEMPERATURE, POLICIES
from secateur_service.jobs.states import TRANSITIONS
from secateur_service.metrics.registry import Metrics
from secateur_service.models.architectures import ARCHITECTURES, WRAPPERS
from secateur_service.models.files import IN_SUBFOLDER, RULES
from secateur_service.pruning.methods import GROUPS, METHODS, UPDATES, options_of
from secateur_service.spec import (
    ALLOCATIONS,
    DEFAULT_OUTLIER,
    DEFAULT_SPAN,
    ORDERS,
    GenerationSpec,
    LanguageLimit,
    LanguageWeight,
    LayerOverride,
    PruneSpec,
    TokenWeight,
    parse_spec,
)
from secateur_service.spec.validation_errors import model_in

ROOT = Path(__file__).parents[2]
JOBS = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
SPECIFICATION = (ROOT / "docs" / "specification.md").read_text(encoding="utf-8")
COMPARING = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHOOSING = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
FAILURES = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")


def test_the_documented_transitions_are_those_of_the_code():
    rows = re.findall(r"^\| ([A-Z]+) \| ([A-Z, ]*)\|$", JOBS, re.MULTILINE)
    documented = {start: {end.strip() for end in ends.split(",") if end.strip()} for start, ends in rows}
    assert documented == {str(state): {str(end) for end in ends} for state, ends in TRANSITIONS.items()}


def test_every_metric_is_documented():
    registry = CollectorRegistry()
    Metrics(registry, version="1").show_certificate_expiry(lambda: 0.0)
    documented = set(re.findall(r"`([a-z_]+)(?:\{[^`]*\})?`", JOBS))
    for family in registry.collect():
        name = family.name.removeprefix("secateur_")
        assert name in documented or f"{name}_total" in documented, name


def test_the_choice_of_a_method_names_every_method():
    for method in METHODS:
        assert f"| `{method}`" in CHOOSING


def test_the_readme_names_the_architectures_that_there_are():
    table = re.findall(r"^\| ([a-z][^|]*) \| ([^|]*) \|$", README[README.index("## Models") :], re.MULTILINE)
    of_kind = {kind: {re.sub(r"[^a-z0-9]", "", name.lower()) for name in names.split(",")} for kind, names in table}
    multimodal = of_kind.pop("multimodal, text model in place")
    of_kind.pop("kind")
    plain = set().union(*(of_kind[kind] for kind in ("dense", "after GPT-2", "mixtures", "hybrids")))
    assert plain == {model_type.replace("_", "") for model_type in ARCHITECTURES}
    assert multimodal == {model_type.replace("_", "") for model_type in WRAPPERS}


def test_the_multimodal_models_are_documented_with_their_text_models_and_towers():
    documented = {}
    for name, kind, texts, towers in re.findall(
        r"^\| ([^|`]+) \| `(\w+)` \| (`[^|]+) \| (`[^|]+) \|$", SPECIFICATION, re.MULTILINE
    ):
        documented[kind] = tuple(tuple(re.findall(r"\w+", cell)) for cell in (texts, towers))
        assert name in README
    assert documented == {kind: (wrapper.texts, wrapper.towers) for kind, wrapper in WRAPPERS.items()}


WHOLE = (GenerationSpec, LanguageLimit, LanguageWeight, LayerOverride, TokenWeight)


def fields(kind, path=()):
    """Paths of the fields of a part and of the parts in it; lists, and what the model writes, as a whole."""
    for name, field in kind.model_fields.items():
        inner = model_in(field.annotation)
        if inner is not None and inner not in WHOLE:
            yield from fields(inner, (*path, name))
        else:
            yield ".".join((*path, name)), field.default


def test_every_field_of_a_specification_is_documented_with_its_default():
    rows = dict(re.findall(r"^\| (`[^|]*`) \|([^|]*)\|", SPECIFICATION, re.MULTILINE))
    documented = {name: default for names, default in rows.items() for name in re.findall(r"`([^`]+)`", names)}
    expected = dict(fields(PruneSpec))
    assert documented.keys() == expected.keys()
    numbers = {"calibration.temperature": DEFAULT_TEMPERATURE}
    numbers |= {f"pruning.{name}": default for method in METHODS for name, default in options_of(method).items()}
    numbers |= {"pruning.allocation.span": DEFAULT_SPAN, "pruning.allocation.outlier": DEFAULT_OUTLIER}
    for name, default in (expected | numbers).items():
        if isinstance(default, bool | int | float | str):
            stated = default if isinstance(default, str) else json.dumps(default).removesuffix(".0")
            assert documented[name].strip(" `") == stated, name


def test_every_choice_of_a_specification_is_documented():
    for choice in (*METHODS, *UPDATES, *GROUPS, *ORDERS, *POLICIES, *ALLOCATIONS):
        assert f"`{choice}`" in SPECIFICATION


def test_sdk_flags_and_documentation_say_the_same_of_every_option():
    rows = dict(re.findall(r"^\| (`[^|]*`) \|([^|]*)\|", SPECIFICATION, re.MULTILINE))
    documented = {name: default for names, default in rows.items() for name in re.findall(r"`([^`]+)`", names)}
    for name, option in OPTIONS.items():
        assert documented[".".join(option.path)].replace("`", "").strip() == option.default, name
    choices = {"method": METHODS, "update": UPDATES, "group": GROUPS, "order": ORDERS, "policy": POLICIES}
    for name, names in {**choices, "allocation": ALLOCATIONS}.items():
        assert set(names) <= set(re.findall(r"\w+", OPTIONS[name].help)), name
    assert SpecOptions.__annotations__.keys() == OPTIONS.keys()
    flags = {flag.name for flag in get_command(app).commands["submit"].params}
    assert {SPELLED_OTHERWISE.get(name, name) for name in OPTIONS} <= flags


def test_the_example_of_a_specification_is_one():
    example = SPECIFICATION.split("```yaml\n")[1].split("```")[0]
    spec = parse_spec(spec_to_dict(spec_message(parse_yaml(example.encode(), "the example"))))
    assert spec.pruning.override_of("model.layers.3.mlp.down_proj.weight").sparsity == 0.6


def test_every_exit_code_of_the_command_has_a_meaning():
    assert MEANINGS.keys() == set(ExitCode)


UPPER = r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*"


def reasons_in(path, constants):
    """The reasons that a module gives to errors and failures: literals, and names of constants that hold one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        given = []
        if isinstance(node, ast.Call):
            given += [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            named = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given += node.args[:1] if named == "Failure" else []
        elif isinstance(node, ast.ClassDef):
            assigned = [item for item in node.body if isinstance(item, ast.Assign | ast.AnnAssign)]
            given += [
                item.value
                for item in assigned
                for target in (item.targets if isinstance(item, ast.Assign) else [item.target])
                if isinstance(target, ast.Name) and target.id == "reason"
            ]
        for value in given:
            name = value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", None)
            text = value.value if isinstance(value, ast.Constant) else constants.get(name)
            if isinstance(text, str) and re.fullmatch(UPPER, text):
                yield text


def test_every_reason_of_an_error_is_documented():
    modules = [*(ROOT / "service").rglob("*.py"), *(ROOT / "client" / "secateur").rglob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in modules)
    constants = dict(re.findall(rf'^({UPPER}) = "({UPPER})"', sources, re.MULTILINE))
    given = {reason for path in modules for reason in reasons_in(path, constants)}
    assert len(given) > 50
    rows = [cell for row in re.findall(r"^\| ([^|]*) \|", FAILURES, re.MULTILINE) for cell in row.split(", ")]
    documented = {cell for cell in rows if re.fullmatch(UPPER, cell)}
    (in_the_sdk,) = re.findall(r"^The SDK has these of its own:((?:.+\n)+)", FAILURES, re.MULTILINE)
    assert given - documented == set(re.findall(rf"\b{UPPER}\b", in_the_sdk)) - {"SDK"}
    assert {reason for reason in documented if f'"{reason}"' not in sources} == set()
    assert len(documented) == len([cell for cell in rows if re.fullmatch(UPPER, cell)]), "a reason stands twice"


def test_the_documented_sweep_is_one():
    example = parse_yaml(COMPARING.split("```yaml\n")[1].split("```")[0].encode(), "the example")
    (_, second, _, last) = grid_of(example).points
    assert second.name == "languages={de:1} method=sparsegpt"
    parsed = parse_spec(spec_to_dict(spec_message(last.spec)))
    assert [entry.weight for entry in parsed.calibration.languages] == [0.5, 0.5]


def test_what_happens_to_each_file_of_a_model_is_documented():
    table = SPECIFICATION.split("## The files of a model")[1].split("\n\n")[2]
    documented = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    rules = (*RULES, IN_SUBFOLDER)
    assert [(row[0], re.findall("`([^`]*)`", row[1]), "any case" in row[1], row[2]) for row in documented] == [
        (str(rule.use), list(rule.patterns), rule.any_case, rule.reason) for rule in rules
    ]
