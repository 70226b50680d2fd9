"""The only wiring of the server: settings → store, dispatcher, API, metrics; signals; the orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from secateur_service import __version__
from secateur_service.admission import AccessPolicy, Admission, admit
from secateur_service.api.server import ApiServer
from secateur_service.artifacts import open_store
from secateur_service.artifacts.port import ObjectStore
from secateur_service.execution.local import LocalExecutor
from secateur_service.jobs.dispatcher import Dispatcher
from secateur_service.jobs.store import open_job_store
from secateur_service.pipeline.ledger import write_durably
from secateur_service.settings import Settings
from secateur_service.telemetry.logging import configure_logging, redact
from secateur_service.telemetry.metrics import Metrics, MetricsServer, StoreCollector

_log = structlog.get_logger(__name__)
