"""How much of the head and of its logits is in memory at once; without torch, for estimates."""

HEAD_SLICE_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
"""Of the head's matrix; an accelerator wants larger products."""
LOGITS_SLICE_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
