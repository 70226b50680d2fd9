"""Memory that a process holds in addition to its work; without torch, for estimates."""

HEAP_SLACK_BYTES = 48 << 20
"""Free memory that the C library may hold on to, see `pipeline.heap_trimming`."""
