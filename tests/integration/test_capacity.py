"""A server that asks for agents: the loop in a real process, before an API server that checks what it is sent."""

from __future__ import annotations

import contextlib
import json
import urllib.request

from secateur_service.jobs.store import open_job_store
from servers import free_port
from support.deployment import KUSTOMIZE, documents
from support.jobs import new_job
from support.kubernetes_api import TOKEN, KubernetesApi
from support.service import Service
from support.waiting import until


def test_a_server_without_slots_asks_for_an_agent_for_the_job_that_waits(tmp_path):
    (tmp_path / "token.given").write_text(TOKEN)
    (tmp_path / "data").mkdir()
    with contextlib.closing(open_job_store(f"sqlite:///{tmp_path}/data/secateur.sqlite3")) as store:
        store.migrate()
        store.create(new_job())  # before the server's first look; the next is ten seconds later
    metrics = f"127.0.0.1:{free_port()}"
    with KubernetesApi("prune", documents(KUSTOMIZE / "components" / "agents" / "agent.yaml")).serving() as api:
        service = Service(
            tmp_path,
            metrics=metrics,
            SECATEUR_CAPACITY="kubernetes",
            SECATEUR_CAPACITY_URL=api.url,
            SECATEUR_CAPACITY_NAMESPACE="prune",
            SECATEUR_CAPACITY_TOKEN_FILE=str(tmp_path / "token.given"),
            SECATEUR_CAPACITY_CLASSES=json.dumps({"cpu": {"host_bytes": 8 << 30}}),
        )
        try:
            until(lambda: api.jobs)
            ((name, job),) = api.jobs.items()
            assert name == "secateur-agent-cpu-1"
            (container,) = job["spec"]["template"]["spec"]["containers"]
            assert container["args"] == ["agent", "--idle-seconds", "300", "--name", name]
            shown = 'secateur_agents_requested{agent_class="cpu",state="waiting"} 1.0'
            until(lambda: shown in urllib.request.urlopen(f"http://{metrics}/metrics").read().decode())
        finally:
            service.close()
