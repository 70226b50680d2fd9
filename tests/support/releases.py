"""Releases of the service, as folders for PYTHONPATH: this one, and one that comes after it."""

import os
import shutil
from pathlib import Path

from alembic.script import ScriptDirectory

import secateur_service
from secateur_service.jobs.migration import SCRIPTS
from support.site import PYTHONPATH

HEAD = ScriptDirectory(SCRIPTS).get_current_head()
NEXT = f"{int(HEAD) + 1:04}"

_EXPANDS = """
    with op.batch_alter_table("jobs", recreate="never") as table:
        table.add_column(sa.Column("tenant", sa.String(64), nullable=False, server_default="nobody"))
    op.create_table("tenants", sa.Column("name", sa.String(64), nullable=False))
"""
_CONTRACTS = """
    with op.batch_alter_table("jobs") as table:
        table.drop_column("swept_time")
"""


def this_release():
    """The environment of this release's processes."""
    return {"PYTHONPATH": PYTHONPATH}


def next_release(folder, *, contracts=False, changes_specifications=False):
    """The environment of a release with a migration more, which also writes events and fields that this one lacks."""
    package = folder / "secateur_service"
    shutil.copytree(Path(secateur_service.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    migration = "import sqlalchemy as sa\nfrom alembic import op\n\n"
    migration += f"revision = {NEXT!r}\ndown_revision = {HEAD!r}\n"
    if contracts:
        migration += f"oldest_supported = {NEXT!r}\n"
    migration += f"\n\ndef upgrade():{_CONTRACTS if contracts else _EXPANDS}"
    (package / "jobs" / "migrations" / "versions" / f"{NEXT}_next.py").write_text(migration)
    if not contracts:
        column = '    Column("labels", Plain, nullable=False),\n'
        _replace(package / "jobs" / "schema.py", column, column + '    Column("tenant", String(64)),\n')
        _replace(
            package / "jobs" / "rows.py", '"labels": dict(job.labels),', '"labels": dict(job.labels), "tenant": "a",'
        )
    kind = '    LOG = "log"'
    _replace(package / "jobs" / "job.py", kind, f'    TRACE = "trace"\n{kind}')
    started = 'f"attempt {self.attempt} started")\n'
    traced = f'{started}        self.add_event(EventKind.TRACE, {{"span": "ab12"}})\n'
    _replace(package / "jobs" / "locked_job.py", started, traced)
    eta = "    eta_seconds: float | None = None\n"
    _replace(package / "records" / "progress.py", eta, f'{eta}    phase: str = "warm"\n')
    fingerprint = '    fingerprint: str = ""\n'
    _replace(package / "records" / "blocks.py", fingerprint, f'{fingerprint}    kernel: str = "fast"\n')
    if changes_specifications:
        _replace(package / "spec" / "specification.py", "SPEC_FORMAT = 1\n", "SPEC_FORMAT = 2\n")
        order = '    group: Literal["row", "layer"]'
        _replace(package / "spec" / "pruning.py", order, f"    rotation: bool = Field(default=True)\n{order}")
    return {"PYTHONPATH": os.pathsep.join([str(folder), PYTHONPATH])}


def _replace(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new), encoding="utf-8")
