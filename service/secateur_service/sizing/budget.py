"""Limits that estimates rely on, without torch."""

EXPECTED_OVER_TOKENS = 32_768
"""Tokens of each language over which a model is asked which tokens it expects, where the text has as many."""
HEAP_SLACK_BYTES = 96 << 20
"""Free memory that the C library may hold on to, see `pipeline.heap_trimming`."""


def written_at_once(*, on_device: bool) -> int:
    """How many pruned blocks may be in the host's memory to be written.

    An accelerator prunes a block by Wanda in less time than one thread takes for the digest of its file.
    """
    return 2 if on_device else 1
