"""Tokens: what is kept of them, who is let in, and how the file changes."""

from __future__ import annotations

import hmac
import json
import stat
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from secateur_service.api.reloading import UnusableFileError
from secateur_service.api.tokens import TokenEntry, Tokens, edited_tokens, new_token, read_tokens
from secateur_service.commands.main import app
from secateur_service.errors import UnauthenticatedError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def keep(path: Path, name: str, expires: datetime | None = None) -> str:
    """Add a token to a file."""
    token, digest = new_token()
    with edited_tokens(path) as entries:
        entries.append(TokenEntry(name=name, sha256=digest, created=NOW, expires=expires))
    return token


def shown(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {token}")]


def refusal(tokens: Tokens, metadata: Any) -> UnauthenticatedError:
    with pytest.raises(UnauthenticatedError) as caught:
        tokens.caller_of(metadata)
    return caught.value


def test_the_caller_is_the_name_of_the_token(tmp_path: Path):
    path = tmp_path / "tokens.json"
    one, two = keep(path, "one"), keep(path, "two")
    tokens = Tokens(path)
    assert [tokens.caller_of(shown(token)) for token in (one, two)] == ["one", "two"]
    assert tokens.caller_of([("authorization", f"bearer  {one} ")]) == "one"


def test_a_token_is_random_and_only_its_hash_is_kept(tmp_path: Path):
    path = tmp_path / "tokens.json"
    made = [keep(path, f"t{number}") for number in range(5)]
    assert len(set(made)) == 5
    assert all(len(token) >= 4 + 43 for token in made)
    assert not any(token[4:] in path.read_text() for token in made)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "TOKEN_MISSING"),
        ([("authorization-bin", b"Bearer x")], "TOKEN_MISSING"),
        ([("authorization", "")], "TOKEN_INVALID"),
        ([("authorization", "Bearer")], "TOKEN_INVALID"),
        ([("authorization", "Bearer ")], "TOKEN_INVALID"),
        ([("authorization", "Basic YTpi")], "TOKEN_INVALID"),
        ([("authorization", "Bearer two words")], "TOKEN_INVALID"),
        ([("authorization", "Bearer a\r\nb")], "TOKEN_INVALID"),
        ([("authorization", "Bearer ä")], "TOKEN_INVALID"),
        ([("authorization", b"Bearer x")], "TOKEN_INVALID"),
        ([("authorization", "Bearer " + "x" * 10_000)], "TOKEN_INVALID"),
    ],
)
def test_what_is_no_token_of_ours_is_refused_without_being_repeated(tmp_path: Path, metadata: Any, reason: str):
    path = tmp_path / "tokens.json"
    keep(path, "one")
    error = refusal(Tokens(path), metadata)
    assert error.reason == reason
    assert "YTpi" not in error.message
    assert "xxx" not in error.message


def test_two_tokens_in_one_call_are_none(tmp_path: Path):
    path = tmp_path / "tokens.json"
    token = keep(path, "one")
    assert refusal(Tokens(path), shown(token) + shown(token)).reason == "TOKEN_INVALID"


def test_a_token_ends_at_its_time_and_says_so_only_to_who_holds_it(tmp_path: Path):
    path = tmp_path / "tokens.json"
    token = keep(path, "ci", NOW + timedelta(days=1))
    now = [NOW]
    tokens = Tokens(path, lambda: now[0])
    assert tokens.caller_of(shown(token)) == "ci"
    now[0] = NOW + timedelta(days=1) - timedelta(seconds=1)
    assert tokens.caller_of(shown(token)) == "ci"
    now[0] = NOW + timedelta(days=1)
    expired = refusal(tokens, shown(token))
    assert (expired.reason, expired.metadata) == ("TOKEN_EXPIRED", {"caller": "ci"})
    other = refusal(tokens, shown(token[:-2] + "zz"))
    assert (other.reason, other.metadata) == ("TOKEN_INVALID", {})
    assert "ci" not in other.message.split()


def test_every_entry_is_compared_by_compare_digest_whoever_asks(tmp_path: Path):
    path = tmp_path / "tokens.json"
    made = [keep(path, f"t{number}", NOW if number == 2 else None) for number in range(7)]
    tokens = Tokens(path)
    calls: Counter[str] = Counter()

    def trace(_frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and argument is hmac.compare_digest:
            calls[token] += 1

    asked = [made[0], made[2], made[6], "sct_unknown", ""]
    for token in asked:
        sys.setprofile(trace)
        try:
            tokens.caller_of(shown(token or "x"))
        except UnauthenticatedError:
            pass
        finally:
            sys.setprofile(None)
    assert calls == dict.fromkeys(asked, 7)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "tokens": [{"name": "a", "sha256": "KEPT-SECRET", "created": "2026-01-01T00:00:00Z"}]}',
        '{"version": 1, "tokens": [{"name": "a b\\n", "sha256": "'
        + "0" * 64
        + '", "created": "2026-01-01T00:00:00Z"}]}',
        '{"version": 1, "tokens": [{"name": "a", "sha256": "' + "0" * 64 + '", "created": "2026-01-01T00:00:00"}]}',
        '{"version": 1, "tokens": [], "more": 1}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_damaged_file_is_refused_in_one_line_with_setting_and_remedy(tmp_path: Path, content: str):
    path = tmp_path / "tokens.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UnusableFileError, match="secateur-service tokens create") as caught:
        Tokens(path)
    message = str(caught.value)
    assert message.startswith(f"tokens_file {path}")
    assert "KEPT-SECRET" not in message
    assert "\n" not in message


def test_a_file_that_is_missing_is_no_empty_one(tmp_path: Path):
    with pytest.raises(UnusableFileError, match=r"tokens_file .*none.* cannot be read: No such file"):
        Tokens(tmp_path / "none")


def test_two_entries_of_one_name_are_damage(tmp_path: Path):
    path = tmp_path / "tokens.json"
    keep(path, "one")
    content = json.loads(path.read_text())
    content["tokens"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(UnusableFileError, match="the same name"):
        read_tokens(path)


def test_the_file_is_for_its_owner_only_and_a_link_to_it_stays_one(tmp_path: Path):
    path = tmp_path / "real.json"
    link = tmp_path / "tokens.json"
    link.symlink_to(path)
    keep(link, "one")
    path.chmod(0o644)
    keep(link, "two")
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in read_tokens(path).tokens] == ["one", "two"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["real.json", "tokens.json"]


def test_the_folder_of_the_first_token_is_made_for_its_owner_only(tmp_path: Path):
    path = tmp_path / "run" / "secateur" / "tokens.json"
    done = CliRunner().invoke(app, ["tokens", "create", "one", "--tokens-file", str(path)])
    assert done.exit_code == 0, done.output
    assert Tokens(path).caller_of(shown(done.stdout.strip())) == "one"
    assert CliRunner().invoke(app, ["tokens", "revoke", "one", "--tokens-file", f"{tmp_path}/absent/x"]).exit_code == 1
    assert not (tmp_path / "absent").exists()


def test_an_edit_that_fails_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "tokens.json"
    keep(path, "one")
    before = path.read_bytes()

    def fail() -> None:
        with edited_tokens(path) as entries:
            entries.clear()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == before


def test_edits_at_the_same_time_lose_nothing(tmp_path: Path):
    path = tmp_path / "tokens.json"
    names = [f"t{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: keep(path, name), names))
    assert sorted(entry.name for entry in read_tokens(path).tokens) == sorted(names)
