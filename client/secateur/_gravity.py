"""How much the verdicts of a report weigh: the report's page and the command line show it in colours."""

from __future__ import annotations

from typing import Literal

Gravity = Literal["bad", "warn", "info"]

GRAVITY: dict[str, Gravity] = {
    "LIMIT_EXCEEDED": "bad",
    "UNTRAINED_MODEL": "bad",
    "OTHER_LANGUAGE": "bad",
    "WINDOWS_TOO_LONG": "bad",
    "LANGUAGE_LOST": "bad",
    "LANGUAGE_DAMAGED": "bad",
    "LANGUAGE_LEFT_BEHIND": "bad",
    "PERPLEXITY_KEPT_TASKS_LOST": "bad",
    "TASKS_LOST": "bad",
    "LIMIT_UNCLEAR": "warn",
    "MIX_DOES_NOT_COVER": "warn",
    "SAMPLE_TOO_SMALL": "warn",
    "NOT_CALIBRATED": "warn",
}
"""By the kind of the verdict; all others are `info`."""
