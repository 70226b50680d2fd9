"""The parser of references against text made of everything that could lead it astray."""

import os
import random
import re
from pathlib import Path

import pytest

from attacks.mutants import mutant
from secateur_service.sources import reference

ROUNDS = 6000
PREFIXES = ["s3://models/team"]
PIECES = [
    "a", "org", "name", "models", "team", "teams", "inside", "link", "linked", "secret", ".", "..", "...", "/", "/",
    "//", "%2e%2e", "%2f", "%00", "\0", "\n", "\\", "@", "@main", "@..", "@a/../b", "?x=1", "#f", ":80", "user:pw@",
    "²", "ä", "\u202e", " ", "-", "_", ".git", "localhost", "host", "[", "]", "X" * 100,
]  # fmt: skip


@pytest.fixture
def places(tmp_path):
    """A root with a folder, links out of it, and a folder with a link out of the root; beside it what is secret."""
    root = tmp_path / "root"
    for folder in (root / "inside", root / "linked", tmp_path / "secret"):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked" / "weights").symlink_to(tmp_path / "secret")
    return root


def text(rng, root):
    start = rng.choice(
        ["", "file://", "file:///", "hf://", "s3://", *[f"file://{root}/", "hf://", "s3://models/team"] * 3]
    )
    return start + "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 6)))


def breaks_a_promise(module, uri, root):
    """Whether text is read as something that it must not be, or refused in another way than by the one error."""
    try:
        found = module.parse_reference(uri)
        if isinstance(found, module.FolderReference):
            path = module.allowed_folder(found, [root])
            return not is_inside(path, root)
        if isinstance(found, module.BucketReference):
            module.check_prefix(found, PREFIXES)
            plain = re.fullmatch(r"s3://models/team(/[^/\\%?#\x00-\x1f\x7f]+)*", str(found))
            return not plain or any(part in (".", "..") for part in str(found).split("/"))
    except module.ReferenceRefusedError:
        return False
    except Exception:  # noqa: BLE001 - whatever it is
        return True
    name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?", found.repository)
    revision = found.revision is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", found.revision)
    return not name or not revision or ".." in str(found) or len(found.repository) > 200


def is_inside(path, root):
    real = os.path.realpath(path)
    links = [os.path.realpath(entry) for entry in path.rglob("*")]
    return Path(real).is_dir() and all(f"{inner}/".startswith(f"{root}/") for inner in (real, *links))


MUTANTS = {
    "names may climb": ('".." in match["name"] or ', ""),
    "revisions may climb": (' or ".." in revision', ""),
    "letters may be of any script": ('(@(?P<revision>.*))?", re.ASCII', '(@(?P<revision>.*))?", re.UNICODE'),
    "revisions may be anything": ("not _REVISION.fullmatch(revision)", "False"),
    "prefixes may climb": ('any(part in ("", ".", "..") for part in parts)', "False"),
    "prefixes may hold escapes": (r'r"[\x00-\x1f\x7f\\%?#]"', r'r"[\x00-\x1f\x7f\\?#]"'),
    "prefixes of prefixes do": ("""f"{prefix.rstrip('/')}/") for""", "prefix) for"),
    "roots are not looked at": ("not any(path.is_relative_to(root.resolve()) for root in roots)", "False"),
    "links are not resolved": ("return Path(raw).resolve()", "return Path(raw)"),
    "links in the folder may lead out": ("        _refuse_links_out(path, roots)\n", "        pass\n"),
    "brackets are not caught": ("except ValueError as error:", "except KeyError as error:"),
}


def first_break(module, root):
    rng = random.Random(3)
    return next((number for number in range(ROUNDS) if breaks_a_promise(module, text(rng, root), root)), None)


def test_no_text_makes_the_parser_break_a_promise(places):
    assert first_break(reference, places) is None


def test_what_is_allowed_is_among_the_text(places):
    rng, accepted = random.Random(3), set()
    for _ in range(ROUNDS):
        uri = text(rng, places)
        try:
            found = reference.parse_reference(uri)
            if isinstance(found, reference.FolderReference):
                reference.allowed_folder(found, [places])
            elif isinstance(found, reference.BucketReference):
                reference.check_prefix(found, PREFIXES)
        except reference.ReferenceRefusedError:
            continue
        accepted.add(type(found).__name__)
    assert accepted == {"FolderReference", "HubReference", "BucketReference"}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_parser_without_one_of_its_checks_is_found_out(places, name):
    assert first_break(mutant(reference, *MUTANTS[name]), places) is not None
