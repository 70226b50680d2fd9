"""The block ledger: which blocks of a job are finished, so that an interrupted job resumes where it stopped.

A block counts as finished when its shard is on disk under its final name *and* the ledger lists it. The shard is
written first, so that the ledger never lists bytes that do not exist.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from secateur_service.durable import write_durably
from secateur_service.records.blocks import BlockRecord
from secateur_service.records.decoding import decode


class BlockLedger(Protocol):
    """Where finished blocks are recorded: a file for `run`, the job store for the service."""

    def entries(self) -> list[BlockRecord]:
        """The finished blocks in ascending order of index."""

    def record(self, record: BlockRecord) -> None:
        """Record one finished block durably; a repeated index replaces the entry."""


class FileLedger:
    """A ledger in one JSON file, rewritten with every entry: it is a few hundred kilobytes at most."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> list[BlockRecord]:
        """The finished blocks in ascending order of index."""
        if not self._path.exists():
            return []
        return [decode(BlockRecord, entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))]

    def record(self, record: BlockRecord) -> None:
        """Record one block; returns when it is on disk."""
        records = {entry.index: entry for entry in self.entries()} | {record.index: record}
        write_durably(self._path, json.dumps([asdict(records[index]) for index in sorted(records)]).encode())
