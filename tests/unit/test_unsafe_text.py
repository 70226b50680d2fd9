"""Nothing that a job names steers a terminal, and nothing in a folder that it names can hang whoever reads it."""

import os
import re
import socket

import pytest

from secateur_service.api.names import check_labels
from secateur_service.errors import InvalidSpecError
from secateur_service.sources.reference import ReferenceRefusedError, allowed_folder, parse_reference
from secateur_service.spec import parse_spec

CHARACTERS = [
    "\0",
    "\x07",
    "\n",
    "\x1b",
    "\x7f",
    "\x85",
    "\x9b",
    "\u200b",
    "\u200f",
    "\u2028",
    "\u202e",
    "\u2066",
    "\ufeff",
]


def spec(**changed):
    data = {
        "model": {"uri": "hf://org/name", "revision": "main"},
        "calibration": {
            "corpus": "mc4",
            "languages": [{"language": "de"}],
            "text_field": "text",
            "sequence_length": 64,
        },
        "pruning": {"method": "wanda", "sparsity": 0.5, "overrides": [{"layers": "*.down", "sparsity": 0.4}]},
        "evaluation": {"corpus": "mc4", "languages": ["de"], "text_field": "text", "tokens_per_language": 64},
        "output": {"destination": "file:///out"},
    }
    return data | changed


def texts_of(data, path=()):
    for name, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, dict | list):
            yield from texts_of(value, (*path, name))
        elif isinstance(value, str):
            yield (*path, name)


def changed(data, path, change):
    first, *rest = path
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[first] = changed(copy[first], rest, change) if rest else change(copy[first])
    return copy


@pytest.mark.parametrize("path", list(texts_of(spec())), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("character", CHARACTERS, ids=lambda character: f"U+{ord(character):04X}")
def test_every_text_of_a_specification_is_refused_by_its_field(path, character):
    parse_spec(spec())
    with pytest.raises(InvalidSpecError) as caught:
        parse_spec(changed(spec(), path, lambda text: f"{text[:-1]}{character}{text[-1]}"))
    fields = [re.sub(r"\[\d+\]", "", violation.field) for violation in caught.value.violations]
    named = ".".join(str(step) for step in path if isinstance(step, str))
    assert any(field.startswith(named) for field in fields), caught.value.violations
    assert character not in str(caught.value)


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("uri", ["file:///a{}b", "hf://org/na{}me", "hf://org/name@ma{}in", "s3://bucket/a{}b"])
def test_references_are_refused(uri, character):
    with pytest.raises(ReferenceRefusedError) as caught:
        parse_reference(uri.format(character))
    assert character not in str(caught.value)


@pytest.mark.parametrize("encoded", ["%00", "%0A", "%1b", "%C2%9B", "%E2%80%AE"])
def test_encoded_ones_are_refused_too(encoded):
    with pytest.raises(ReferenceRefusedError):
        parse_reference(f"file:///a{encoded}b")


@pytest.mark.parametrize("character", CHARACTERS)
def test_labels_are_refused(character):
    assert check_labels({"team": "search"}) == []
    assert check_labels({"team": f"se{character}arch"})
    assert check_labels({f"te{character}am": "search"})


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


def pipe_by_link(path):
    os.mkfifo(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


@pytest.mark.parametrize("place", ["config.json", "de.txt", "de/0.txt", "README.md"])
@pytest.mark.parametrize("make", [pipe, unix_socket, device, pipe_by_link])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_folder_with_a_pipe_a_device_or_a_socket_is_refused_unopened(tmp_path, monkeypatch, place, make, everywhere):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "model.safetensors").touch()
    reference = parse_reference(tmp_path.as_uri())
    roots = None if everywhere else [tmp_path]
    assert allowed_folder(reference, roots) == tmp_path
    monkeypatch.chdir((tmp_path / place).parent)  # names of sockets are short
    make(type(tmp_path)((tmp_path / place).name))
    with pytest.raises(ReferenceRefusedError, match=r"pipe, a device or a socket|link out"):
        allowed_folder(reference, roots)


def test_a_link_to_nowhere_is_somebody_elses_business(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "nowhere")
    assert allowed_folder(parse_reference(tmp_path.as_uri()), None) == tmp_path
