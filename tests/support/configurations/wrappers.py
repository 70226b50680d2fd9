"""Multimodal models: a tiny text model, and a tower for small images."""

from typing import Any

from support.configurations.dense import CONFIGS as DENSE
from support.configurations.hybrids import CONFIGS as HYBRIDS
from support.configurations.mixtures import CONFIGS as MIXTURES
from support.configurations.sizes import LLAMA_LIKE
from support.configurations.varied import CONFIGS as VARIED

_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_SIGLIP = {**_TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
_QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 14,
    "num_position_embeddings": 16,
    "out_hidden_size": 64,
}
_SECTIONS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
IMAGE = 259
"""The token that images take the place of: not one of the tokenizer's."""
_GEMMA4_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 258,
    "audio_token_id": 257,
    "boi_token_id": 256,
    "eoi_token_id": 255,
    "boa_token_id": 254,
    "eoa_token_index": 253,
}


def _text(name: str, **changes: Any) -> dict[str, Any]:
    return {**(DENSE | HYBRIDS | MIXTURES | VARIED)[name], "model_type": name, **changes}


CONFIGS: dict[str, dict[str, Any]] = {
    "aya_vision": {
        "text_config": _text("cohere2"),
        "vision_config": _SIGLIP,
        "vision_feature_layer": -1,
        "downsample_factor": 2,
        "image_token_index": IMAGE,
        "tie_word_embeddings": True,
    },
    "gemma3": {
        "text_config": _text("gemma3_text"),
        "vision_config": _SIGLIP,
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE,
        "boi_token_index": 257,
        "eoi_token_index": 258,
    },
    "gemma4": {
        "text_config": _text("gemma4_text"),
        "vision_config": {
            **{key: value for key, value in _TOWER.items() if key != "image_size"},
            "model_type": "gemma4_vision",
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pooling_kernel_size": 2,
            "position_embedding_size": 8,
            "standardize": True,
        },
        "audio_config": {
            "model_type": "gemma4_audio",
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "output_proj_dims": 16,
            "subsampling_conv_channels": [4, 2],
            "use_clipped_linears": False,
        },
        **_GEMMA4_TOKENS,
    },
    "gemma4_unified": {
        "text_config": _text("gemma4_unified_text"),
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 7,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 16,
            "mm_posemb_size": 8,
            "output_proj_dims": 16,
        },
        "audio_config": None,
        **_GEMMA4_TOKENS,
    },
    "llama4": {
        "text_config": _text("llama4_text"),
        "vision_config": {
            **_TOWER,
            "model_type": "llama4_vision_model",
            "intermediate_size": 64,  # its adapter reads four patches of the tower at once
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "vision_output_dim": 16,
        },
        "image_token_index": IMAGE,
        "boi_token_index": 257,
        "eoi_token_index": 258,
    },
    "llava": {
        "text_config": _text("llama"),
        "vision_config": {**_TOWER, "model_type": "clip_vision_model", "projection_dim": 16},
        "image_token_index": IMAGE,
        "image_seq_length": 4,
    },
    "mistral3": {
        "text_config": _text("mistral"),
        "vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8, "image_size": 56},
        "image_token_index": IMAGE,
        "spatial_merge_size": 2,
        "tie_word_embeddings": False,
    },
    "qwen2_5_vl": {
        "text_config": {
            **{key: value for key, value in LLAMA_LIKE.items() if key != "head_dim"},
            "model_type": "qwen2_5_vl_text",
            "rope_parameters": _SECTIONS,
        },
        "vision_config": {
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
            "window_size": 28,
        },
        "image_token_id": IMAGE,
        "video_token_id": 258,
        "vision_start_token_id": 257,
        "vision_end_token_id": 256,
        "tie_word_embeddings": False,
    },
    "qwen3_5": {
        "text_config": _text(
            "qwen3_5_text",
            rope_parameters={**_SECTIONS, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
        ),
        "vision_config": _QWEN_TOWER,
        "image_token_id": IMAGE,
        "video_token_id": 258,
        "vision_start_token_id": 257,
        "vision_end_token_id": 256,
        "tie_word_embeddings": False,
    },
    "qwen3_vl": {
        "text_config": {
            **LLAMA_LIKE,
            "model_type": "qwen3_vl_text",
            "rope_parameters": _SECTIONS,
        },
        "vision_config": {**_QWEN_TOWER, "deepstack_visual_indexes": [0]},
        "image_token_id": IMAGE,
        "video_token_id": 258,
        "vision_start_token_id": 257,
        "vision_end_token_id": 256,
        "tie_word_embeddings": True,
    },
}
