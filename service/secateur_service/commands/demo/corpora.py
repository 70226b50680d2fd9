"""The demo's text: four small files that ship with the project, split once into training and held-out sentences."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

LANGUAGES = ("de", "en", "es", "uk")
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """One language's sentences: those that the model is trained and calibrated on, and those it never sees."""

    training: tuple[str, ...]
    held_out: tuple[str, ...]


def read_split(language: str) -> Split:
    """Split a shipped text by the hash of each line: reproducible, and no sentence is on both sides."""
    text = (
        resources.files("secateur_service.commands.demo")
        .joinpath("text", f"{language}.txt")
        .read_text(encoding="utf-8")
    )
    lines = dict.fromkeys(line for line in text.splitlines() if line)
    held_out = tuple(line for line in lines if _is_held_out(line))
    return Split(training=tuple(line for line in lines if not _is_held_out(line)), held_out=held_out)


def _is_held_out(line: str) -> bool:
    digest = hashlib.sha256(line.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def write_corpora(folder: Path) -> tuple[Path, Path]:
    """Write one text file per language into `folder`/calibration and `folder`/evaluation.

    Returns:
        The two folders, calibration first.
    """
    calibration, evaluation = folder / "calibration", folder / "evaluation"
    for target in (calibration, evaluation):
        target.mkdir(parents=True, exist_ok=True)
    for language in LANGUAGES:
        split = read_split(language)
        for target, lines in ((calibration, split.training), (evaluation, split.held_out)):
            (target / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return calibration, evaluation
