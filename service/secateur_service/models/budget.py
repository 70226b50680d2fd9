"""How much of the head and of its logits is in memory at once; without torch, for estimates.

An accelerator is faster with larger products: a vocabulary of 128,256 and 131,072 tokens take it 128 pieces of each
model, where a quarter of the head and an eighth of the logits made 1,024 of them. A job that has to save the
accelerator's memory takes the slices of a CPU.
"""

HEAD_SLICE_BYTES = {"cpu": 64 << 20, "cuda": 1 << 30}
"""For the head's matrix."""
LOGITS_SLICE_BYTES = {"cpu": 16 << 20, "cuda": 512 << 20}
