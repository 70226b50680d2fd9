"""Limits that estimates rely on, without torch."""

EXPECTED_OVER_TOKENS = 32_768
"""Tokens of each language over which a model is asked which tokens it expects, where the text has as many."""
HEAP_SLACK_BYTES = 48 << 20
"""Free memory that the C library may hold on to, see `pipeline.heap_trimming`."""
