"""How much of the head and of its logits is in memory at once; without torch, for estimates."""

HEAD_SLICE_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
"""For the head's matrix; an accelerator is faster with larger products."""
LOGITS_SLICE_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}
