"""Which documents of a corpus are for evaluation, where one corpus serves both purposes. Without torch."""

from __future__ import annotations

import hashlib

from secateur_service.calibration.documents import Rendered

EVALUATION_SHARE = 5
"""One of so many documents goes to evaluation."""


def document_hash(text: str) -> bytes:
    """Identity of a document; a template around it does not change it."""
    origin = text.origin if isinstance(text, Rendered) else text
    return hashlib.sha256(origin.encode()).digest()[:16]


def for_evaluation(text: str) -> bool:
    """Whether a document of a corpus that serves both purposes belongs to evaluation."""
    return document_hash(text)[0] % EVALUATION_SHARE == 0
