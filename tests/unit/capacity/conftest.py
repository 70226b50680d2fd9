from __future__ import annotations

import pytest

from secateur_service.agent_classes import AgentClass

GB = 10**9


@pytest.fixture
def gpu():
    return AgentClass(devices=1, device_bytes=80 * GB, host_bytes=64 * GB, disk_bytes=200 * GB, cpus=8, most_agents=3)
