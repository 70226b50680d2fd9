"""Multimodal models whose text model is pruned in place, and the text models that occur in these only.

Which names their checkpoints have is told by transformers' `conversion_mapping`: `save_pretrained` of version 4 and the
models on the hub differ from the module tree, and a checkpoint may have either. Everything but the text model and the
head is copied as it is.
"""

from __future__ import annotations

from dataclasses import replace

from secateur_service.models.architectures import towers
from secateur_service.models.architectures.architecture import Architecture, Wrapper
from secateur_service.models.architectures.dense import ARCHITECTURES

_PROJECTED = ("model.vision_tower", "model.multi_modal_projector")
_LLAVA = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("language_model.", "model.language_model."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_GEMMA4 = tuple(
    (f"{name}.", f"model.{name}.")
    for name in ("language_model", "vision_tower", "embed_vision", "audio_tower", "embed_audio")
)
_UNIFIED = "model.embed_vision.multimodal_embedder"
_QWEN = (
    ("model.language_model.", "model.language_model."),
    ("model.visual.", "model.visual."),
    ("language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("model.", "model.language_model."),
)

WRAPPERS: dict[str, Wrapper] = {
    "aya_vision": Wrapper(
        "AyaVisionForConditionalGeneration",
        "AyaVisionModel",
        texts=("cohere2",),
        towers=("siglip_vision_model",),
        beside=_PROJECTED,
        spellings=_LLAVA,
        shapes=towers.projected(towers.aya),
        tied=True,
    ),
    "gemma3": Wrapper(
        "Gemma3ForConditionalGeneration",
        "Gemma3Model",
        texts=("gemma3_text",),
        towers=("siglip_vision_model",),
        beside=_PROJECTED,
        spellings=_LLAVA,
        shapes=towers.projected(towers.gemma),
        tied=True,
    ),
    "gemma4": Wrapper(
        "Gemma4ForConditionalGeneration",
        "Gemma4Model",
        texts=("gemma4_text",),
        towers=("gemma4_vision",),
        beside=("model.vision_tower", "model.embed_vision"),
        further=(("audio_config", ("model.audio_tower", "model.embed_audio")),),
        shapes=towers.gemma4,
        spellings=_GEMMA4,
        tied=True,
        padded=True,
    ),
    # Without towers: patches and frames are projected. Names of the projections differ on the hub.
    "gemma4_unified": Wrapper(
        "Gemma4UnifiedForConditionalGeneration",
        "Gemma4UnifiedModel",
        texts=("gemma4_unified_text",),
        towers=("gemma4_unified_vision",),
        beside=("model.embed_vision",),
        further=(("audio_config", ("model.embed_audio",)),),
        shapes=towers.gemma4_unified,
        spellings=(
            ("model.vision_embedder.", "model.embed_vision."),
            ("vision_embedder.", "model.embed_vision."),
            ("model.embed_vision.embedding_projection.", f"{_UNIFIED}.embedding_projection."),
            ("embed_vision.embedding_projection.", f"{_UNIFIED}.embedding_projection."),
            *_GEMMA4,
        ),
        tied=True,
        padded=True,
    ),
    "llama4": Wrapper(
        "Llama4ForConditionalGeneration",
        "Llama4ForConditionalGeneration",
        texts=("llama4_text",),
        towers=("llama4_vision_model",),
        beside=("vision_model", "multi_modal_projector"),
        spellings=(),
        shapes=towers.llama4,
        text="language_model.model",
        head="language_model.lm_head",
    ),
    "llava": Wrapper(
        "LlavaForConditionalGeneration",
        "LlavaModel",
        texts=("llama", "mistral", "qwen2", "qwen3", "phi3"),
        towers=("clip_vision_model", "siglip_vision_model", "pixtral"),
        beside=_PROJECTED,
        spellings=_LLAVA,
        shapes=towers.projected(towers.llava),
        tied_by_text=True,
    ),
    "mistral3": Wrapper(
        "Mistral3ForConditionalGeneration",
        "Mistral3Model",
        texts=("mistral", "ministral3"),
        towers=("pixtral",),
        beside=_PROJECTED,
        spellings=_LLAVA,
        shapes=towers.projected(towers.mistral),
        tied=True,
    ),
    "qwen2_5_vl": Wrapper(
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLModel",
        texts=("qwen2_5_vl_text",),
        towers=("qwen2_5_vl_vision", "qwen2_5_vl"),
        beside=("model.visual",),
        spellings=_QWEN,
        shapes=towers.qwen2_5,
        tied_by_text=True,
        flat=True,
    ),
    "qwen3_5": Wrapper(
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5Model",
        texts=("qwen3_5_text",),
        towers=("qwen3_5_vision", "qwen3_5"),
        beside=("model.visual",),
        spellings=_QWEN,
        shapes=towers.qwen3,
    ),
    # Features of the tower are added to the hidden states after its first blocks, by number.
    "qwen3_vl": Wrapper(
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLModel",
        texts=("qwen3_vl_text",),
        towers=("qwen3_vl_vision", "qwen3_vl"),
        beside=("model.visual",),
        spellings=_QWEN,
        shapes=towers.qwen3,
        fixed_depth=True,
    ),
}
"""Wrappers by their `model_type`."""

TEXT_MODELS: dict[str, Architecture] = {
    # Its class takes the width of a head from the hidden size, and needs their number to divide that.
    "qwen2_5_vl_text": replace(
        ARCHITECTURES["qwen2"],
        class_name="Qwen2_5_VLForConditionalGeneration",
        base="Qwen2_5_VLTextModel",
        attention=None,
        whole_heads=True,
    ),
    "qwen3_vl_text": replace(
        ARCHITECTURES["qwen3"],
        class_name="Qwen3VLForConditionalGeneration",
        base="Qwen3VLTextModel",
        layer_types=(),
        per_block=(),
    ),
}
"""Rows of text models that transformers has no causal language model for, by their `model_type`."""
