"""Classes of agents: the kinds of machine that a cluster can be asked for, as the settings state them.

A class says what one agent of it has, so that jobs can be matched with it before it exists, and how it is asked for.
Every agent has one slot: one device, or the CPU.
"""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[a-z]([a-z0-9-]{0,26}[a-z0-9])?")
"""Names become parts of names in a cluster, of which Kubernetes allows 63 characters."""


def check_name(name: str) -> str:
    """Return a name that a cluster takes as a part of longer ones.

    Raises:
        ValueError: it does not.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"not a name: {name!r}; use up to 28 lower-case letters, digits and dashes, a letter first")
    return name


ClusterName = Annotated[str, AfterValidator(check_name)]


class AgentClass(BaseModel):
    """What an agent of the class has, and how a cluster is asked for one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    devices: int = Field(default=0, ge=0, le=1, description="1 for an agent with a GPU, 0 for one on the CPU")
    device_bytes: int = Field(default=0, ge=0, description="memory of its GPU")
    host_bytes: int = Field(gt=0, description="memory that is asked for, and that its jobs may take")
    disk_bytes: int = Field(
        default=0, ge=0, description="disk that its jobs may take, which is not asked for; 0: enough for any job"
    )
    cpus: float = Field(default=1.0, gt=0, description="CPU cores that are asked for")
    most_agents: int = Field(default=8, ge=1, le=10_000, description="the most agents of the class at a time")
    resources: dict[str, float] = Field(
        default={},
        description="what else is asked for: custom resources of Ray, or extended ones of Kubernetes, which replace "
        "nvidia.com/gpu",
    )
    template: ClusterName = Field(
        default="secateur-agent", description="Kubernetes: the CronJob whose Job template is used"
    )

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        if self.device_bytes and not self.devices:
            raise ValueError("device_bytes is the memory of a GPU, and devices is 0; set devices to 1, or leave it out")
        return self

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if amount <= 0:
                raise ValueError(f"{name}: ask for more than 0 of it, or leave it out")
        return resources
