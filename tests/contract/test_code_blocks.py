"""Every block of code in the documentation is one: its commands and flags exist, its specifications are valid.

What can be run as it stands is run elsewhere: the tutorial in `tests/integration/test_tutorial.py`, the pipeline in
`test_pipeline.py`, the use from Python in `test_library.py`.
"""

import ast
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
from typer.main import get_command

import secateur
from secateur._grid import grid_of
from secateur._spec import parse_yaml, spec_message
from secateur.cli._app import app as client_app
from secateur_service.api.conversion import spec_to_dict
from secateur_service.commands.main import app as service_app
from secateur_service.settings import Settings
from secateur_service.spec import parse_spec
from support.documentation import GENERATED, PAGES, ROOT, all_blocks, commands

PROGRAMS = {"secateur": get_command(client_app), "secateur-service": get_command(service_app)}
# A specification that is valid, into which a fragment of one is put.
AROUND = {
    "model": {"uri": "file:///models/m"},
    "calibration": {"corpus": "file:///corpora/c", "languages": {"de": 0.5, "uk": 0.3, "en": 0.2}, "samples": 128},
}


def shown_commands():
    """Every command of ours in the pages, with the page."""
    for block in all_blocks("sh", "shell"):
        yield from ((block.page, command) for command in commands(block.text))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for command in re.findall(r"`((?:secateur|secateur-service|make|python) [^`\n]+)`", text):
            yield path.relative_to(ROOT).as_posix(), command


def words_of(command):
    """The words of a command; None where it is only a part of one."""
    try:
        return shlex.split(command)
    except ValueError:
        return None


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_that_is_shown_exists_with_its_flags(program):
    checked = 0
    for page, command in shown_commands():
        words = words_of(command)
        if not words or words[0] != program:
            continue
        flags, known = [word for word in words[1:] if re.match(r"--?[a-z]", word)], {"--help", "-h", "--version"}
        level, rest = PROGRAMS[program], [word for word in words[1:] if not word.startswith(("-", "["))]
        known |= {name for parameter in level.params for name in (*parameter.opts, *parameter.secondary_opts)}
        while getattr(level, "commands", None):
            name = next((word for word in rest if word in level.commands), None)
            assert name or not rest or rest[0] == "COMMAND" or flags, f"{page}: {command}"
            if name is None:
                break
            rest = rest[rest.index(name) + 1 :]
            level = level.commands[name]
            known |= {flag for parameter in level.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {flag.split("=")[0] for flag in flags} - known
        assert not unknown, f"{page}: {command}: {unknown}"
        checked += 1
    assert checked > 5


def test_every_script_and_target_that_is_shown_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, command in shown_commands():
        words = words_of(command) or []
        if words[:1] == ["make"]:
            assert words[1] in targets, f"{page}: {command}"
        if words[:1] == ["python"] and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), f"{page}: {command}"
            flags = {word for word in words[2:] if word.startswith("--")} - {"--help"}
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            for flag in flags:
                assert f'"{flag}"' in source or "add_common" in source or flag in _shared_flags(), f"{page}: {command}"


def _shared_flags():
    """Flags that several benchmarks take from a module that they share."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    return set(re.findall(r'"(--[a-z-]+)"', text))


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_every_specification_that_is_shown_is_valid(block):
    data = parse_yaml(block.text.encode(), str(block))
    if "task" in data or "apiVersion" in data or "images" in data:
        return  # of lm-evaluation-harness, whose tasks have a test of their own; of Kubernetes
    if "sweep" in data:
        assert grid_of(data).points
        return
    whole = {**AROUND, **data}
    whole["calibration"] = {**AROUND["calibration"], **data.get("calibration", {})}
    if "shrink" not in whole and "pruning" not in whole:
        whole["pruning"] = {"sparsity": 0.5}
    if "task_loss" in data.get("limits", {}):
        whole["evaluation"] = {"tasks": ["trains_de"], "task_files": "file:///tasks"}
    parse_spec(spec_to_dict(spec_message(whole)))


@pytest.mark.parametrize("block", all_blocks("toml"), ids=str)
def test_every_file_of_settings_that_is_shown_is_valid(block):
    data = tomllib.loads(block.text)
    if set(data) <= {field.name for field in secateur.ClientConfig.__dataclass_fields__.values()}:
        return
    Settings(**data)


@pytest.mark.parametrize("block", all_blocks("python"), ids=str)
def test_python_that_is_shown_names_what_there_is(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "secateur":
            assert hasattr(secateur, node.attr), f"{block}: secateur.{node.attr}"


def test_every_link_between_the_pages_leads_somewhere():
    anchors = {path: _anchors(path) for path in PAGES}
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            there = (path.parent / name).resolve() if name else path
            assert there.exists(), f"{path.name}: {target}"
            if anchor and there in anchors:
                assert anchor in anchors[there], f"{path.name}: {target}"


def _anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_what_is_written_from_the_code_has_not_drifted():
    done = subprocess.run(
        [sys.executable, "scripts/generate_documentation.py", "--check"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = [path.name for path in PAGES if path.read_text(encoding="utf-8").startswith(GENERATED)]
    assert written == ["cli.md", "sdk.md", "settings.md"]
