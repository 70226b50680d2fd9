"""Sizes that tiny models have in common."""

VOCABULARY = 260

LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}

SHARED = {key: value for key, value in LLAMA_LIKE.items() if key != "head_dim"}
"""Where the heads share the hidden size equally."""
