"""What a job published, verified."""

import hashlib
import json

from secateur_service.artifacts.manifest import parse_manifest

# These name the job or the time.
_PARTICULAR = (".html", "README.md", "provenance.json")


def published(objects, job):
    """Digests by path, of all that must be the same for the same specification, and paths that no manifest names.

    Raises:
        AssertionError: the manifest is not the one that the job store names, or a file is not what it says.
    """
    content = objects.get_bytes(f"{job.id}/manifest.json")
    assert hashlib.sha256(content).hexdigest() == job.result.manifest_sha256, "another manifest"
    manifest = parse_manifest(content)
    assert manifest.job_id == job.id, "another job's manifest"
    digests = {}
    for file in manifest.files:
        stored = objects.get_bytes(f"{job.id}/{file.path}")
        assert len(stored) == file.size_bytes, f"{file.path} has another size"
        assert hashlib.sha256(stored).hexdigest() == file.sha256, f"{file.path} has another content"
        if file.path == "report/report.json":
            report = json.loads(stored)
            del report["job"]
            stored = json.dumps(report).encode()
        if not file.path.endswith(_PARTICULAR):
            digests[file.path] = hashlib.sha256(stored).hexdigest()
    there = {key.removeprefix(f"{job.id}/") for key in objects.list_keys(f"{job.id}/")}
    return digests, there - {file.path for file in manifest.files} - {"manifest.json"}
