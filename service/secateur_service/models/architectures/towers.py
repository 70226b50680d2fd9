"""What lies beside the text model of a multimodal model: shapes of towers and projectors, told without torch.

As with text models, admission compares them with the headers of a checkpoint, and a test with transformers' classes.

Shapes are out × in: d hidden size of the tower, f intermediate size, p width of a patch, t hidden size of the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateur_service.models.architectures.architecture import Shapes
from secateur_service.models.architectures.parts import feed_forward, linear, norms

_GATED = ("gate_proj", "up_proj", "down_proj")


def projected(projector: Callable[[Any], Shapes]) -> Callable[[Any], Shapes]:
    """The shapes of a model in the form of LLaVA: a tower of one of several kinds, and the projector after it."""

    def shapes(config: Any) -> Shapes:
        tower = _TOWERS[config.vision_config.model_type](config.vision_config)
        return {**_below("model.vision_tower", tower), **_below("model.multi_modal_projector", projector(config))}

    return shapes


def llava(config: Any) -> Shapes:
    """LLaVA's projector, which reads the output of one or several blocks of the tower."""
    t, bias, layers = config.text_config.hidden_size, config.multimodal_projector_bias, config.vision_feature_layer
    read = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
    return {**linear("linear_1", t, read, bias=bias), **linear("linear_2", t, t, bias=bias)}


def mistral(config: Any) -> Shapes:
    """LLaVA's, after a layer that merges squares of patches."""
    d = config.vision_config.hidden_size
    merger = linear("patch_merger.merging_layer", d, d * config.spatial_merge_size**2)
    return {**llava(config), **merger, **norms(d, "norm")}


def gemma(config: Any) -> Shapes:
    """Gemma 3's projector, whose matrix is in × out."""
    d = config.vision_config.hidden_size
    return {"mm_input_projection_weight": (d, config.text_config.hidden_size), **norms(d, "mm_soft_emb_norm")}


def aya(config: Any) -> Shapes:
    """Aya Vision's projector: a gated layer over squares of patches."""
    t, read = config.text_config.hidden_size, config.vision_config.hidden_size * config.downsample_factor**2
    between = getattr(config, "alignment_intermediate_size", t)
    return {
        **norms(read, "layernorm", bias=True),
        **linear("linear_1", between, read, bias=True),
        **linear("linear_2", t, between // 2, bias=True),
    }


def gemma4(config: Any) -> Shapes:
    """Gemma 4's tower, that of audio if there is one, and the projection of each."""
    tower, audio, t = config.vision_config, config.audio_config, config.text_config.hidden_size
    d, h, g, w = tower.hidden_size, tower.num_attention_heads, tower.num_key_value_heads, tower.head_dim
    layers = {
        **linear("self_attn.q_proj", h * w, d),
        **linear("self_attn.k_proj", g * w, d),
        **linear("self_attn.v_proj", g * w, d),
        **linear("self_attn.o_proj", d, h * w),
        **feed_forward("mlp", _GATED, d, tower.intermediate_size),
    }
    before_and_after = ("input_layernorm", "post_attention_layernorm")
    feed_forward_norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    block = {
        **_clippable(layers, tower),
        **norms(w, "self_attn.q_norm", "self_attn.k_norm"),
        **norms(d, *before_and_after, *feed_forward_norms),
    }
    found: Shapes = {
        "patch_embedder.position_embedding_table": (2, tower.position_embedding_size, d),
        **linear("patch_embedder.input_proj", d, 3 * tower.patch_size**2),
        **_repeated("encoder.layers", tower.num_hidden_layers, block),
        **({"std_bias": (d,), "std_scale": (d,)} if tower.standardize else {}),
    }
    read = getattr(tower, "output_proj_dims", d)
    found = {**_below("model.vision_tower", found), **linear("model.embed_vision.embedding_projection", t, read)}
    if audio is None:
        return found
    projection = linear("model.embed_audio.embedding_projection", t, audio.output_proj_dims)
    return {**found, **_below("model.audio_tower", _conformer(audio)), **projection}


def gemma4_unified(config: Any) -> Shapes:
    """The Gemma 4 without towers: patches and their places are embedded as they are, and projected as frames are."""
    part, audio, t = config.vision_config, config.audio_config, config.text_config.hidden_size
    d, patch = part.mm_embed_dim, 3 * (part.patch_size * part.pooling_kernel_size) ** 2
    found: Shapes = {
        "pos_embedding": (part.mm_posemb_size, 2, d),
        **norms(patch, "patch_ln1", bias=True),
        **linear("patch_dense", d, patch, bias=True),
        **norms(d, "patch_ln2", "pos_norm", bias=True),
        **linear("multimodal_embedder.embedding_projection", t, part.output_proj_dims),
    }
    found = _below("model.embed_vision", found)
    if audio is None:
        return found
    return {**found, **linear("model.embed_audio.embedding_projection", t, audio.output_proj_dims)}


def _conformer(tower: Any) -> Shapes:
    """Gemma 4's tower of audio: two convolutions over time and frequency, and the blocks of a Conformer."""
    d, (first, second) = tower.hidden_size, tower.subsampling_conv_channels
    layers = {
        **linear("lconv1d.linear_start", 2 * d, d),
        **linear("lconv1d.linear_end", d, d),
        **_attention("self_attn", d, "post", bias=False),
    }
    for path in ("feed_forward1", "feed_forward2"):
        layers |= feed_forward(path, ("ffw_layer_1", "ffw_layer_2"), d, 4 * d)
    block = {
        **_clippable(layers, tower),
        "lconv1d.depthwise_conv1d.weight": (d, 1, tower.conv_kernel_size),
        "self_attn.per_dim_scale": (d // tower.num_attention_heads,),
        **linear("self_attn.relative_k_proj", d, d),
        **norms(d, *(f"feed_forward{n}.{when}_layer_norm" for n in (1, 2) for when in ("pre", "post"))),
        **norms(d, "lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out"),
    }
    start = "subsample_conv_projection"
    return {
        f"{start}.layer0.conv.weight": (first, 1, 3, 3),
        f"{start}.layer1.conv.weight": (second, first, 3, 3),
        **norms(first, f"{start}.layer0.norm"),
        **norms(second, f"{start}.layer1.norm"),
        **linear(f"{start}.input_proj_linear", d, first // 4 * second),
        **_repeated("layers", tower.num_hidden_layers, block),
        **linear("output_proj", tower.output_proj_dims, d, bias=True),
    }


def _clippable(layers: Shapes, tower: Any) -> Shapes:
    """Linear layers that may clip what goes in and comes out."""
    bounds = ("input_min", "input_max", "output_min", "output_max") if tower.use_clipped_linears else ()
    found: Shapes = {}
    for name, shape in layers.items():
        path = name.removesuffix(".weight")
        found |= {f"{path}.linear.weight": shape, **{f"{path}.{bound}": () for bound in bounds}}
    return found


def llama4(config: Any) -> Shapes:
    """Llama 4's tower, with the adapter that reads squares of patches, and its projector."""
    tower = config.vision_config
    d, f = tower.hidden_size, tower.intermediate_size
    found: Shapes = {
        "class_embedding": (d,),
        "positional_embedding_vlm": ((tower.image_size // tower.patch_size) ** 2 + 1, d),
        **linear("patch_embedding.linear", d, tower.num_channels * tower.patch_size**2),
        **norms(d, "layernorm_pre", "layernorm_post", bias=True),
        **linear("vision_adapter.mlp.fc1", tower.projector_input_dim, f),
        **linear("vision_adapter.mlp.fc2", tower.projector_output_dim, tower.projector_output_dim),
    }
    block = {
        **_attention("self_attn", d, "o_proj", bias=True),
        **feed_forward("mlp", ("fc1", "fc2"), d, f, bias=True),
        **norms(d, "input_layernorm", "post_attention_layernorm", bias=True),
    }
    found |= _repeated("model.layers", tower.num_hidden_layers, block)
    projector = linear("multi_modal_projector.linear_1", config.text_config.hidden_size, tower.vision_output_dim)
    return {**_below("vision_model", found), **projector}


def qwen2_5(config: Any) -> Shapes:
    """Qwen2.5-VL's tower and merger: no positions, norms without biases, gated feed-forward layers."""
    tower = config.vision_config
    d, merged = tower.hidden_size, tower.hidden_size * tower.spatial_merge_size**2
    block = {
        **_fused_attention(d),
        **feed_forward("mlp", _GATED, d, tower.intermediate_size, bias=True),
        **norms(d, "norm1", "norm2"),
    }
    found: Shapes = {
        "patch_embed.proj.weight": _volume(tower),
        **_repeated("blocks", tower.depth, block),
        **norms(d, "merger.ln_q"),
        **linear("merger.mlp.0", merged, merged, bias=True),
        **linear("merger.mlp.2", tower.out_hidden_size, merged, bias=True),
    }
    return _below("model.visual", found)


def qwen3(config: Any) -> Shapes:
    """Qwen3-VL's tower and its mergers, of which some read blocks within the tower; Qwen3.5 has only the last."""
    tower = config.vision_config
    d = tower.hidden_size
    block = {
        **_fused_attention(d),
        **feed_forward("mlp", ("linear_fc1", "linear_fc2"), d, tower.intermediate_size, bias=True),
        **norms(d, "norm1", "norm2", bias=True),
    }
    merged = d * tower.spatial_merge_size**2
    found: Shapes = {
        "patch_embed.proj.weight": _volume(tower),
        "patch_embed.proj.bias": (d,),
        "pos_embed.weight": (tower.num_position_embeddings, d),
        **_repeated("blocks", tower.depth, block),
        **_below("merger", _merger(d, merged, tower.out_hidden_size)),
    }
    within = len(getattr(tower, "deepstack_visual_indexes", ()))
    found |= _repeated("deepstack_merger_list", within, _merger(merged, merged, tower.out_hidden_size))
    return _below("model.visual", found)


def _merger(normed: int, merged: int, out: int) -> Shapes:
    layers = {**linear("linear_fc1", merged, merged, bias=True), **linear("linear_fc2", out, merged, bias=True)}
    return {**norms(normed, "norm", bias=True), **layers}


def _clip(tower: Any) -> Shapes:
    d = tower.hidden_size
    return {
        "embeddings.class_embedding": (d,),
        "embeddings.patch_embedding.weight": _patch(tower),
        "embeddings.position_embedding.weight": ((tower.image_size // tower.patch_size) ** 2 + 1, d),
        **norms(d, "pre_layrnorm", "post_layernorm", bias=True),
        **_encoder(tower),
    }


def _siglip(tower: Any) -> Shapes:
    d = tower.hidden_size
    head = {
        "head.probe": (1, 1, d),
        "head.attention.in_proj_weight": (3 * d, d),
        "head.attention.in_proj_bias": (3 * d,),
        **linear("head.attention.out_proj", d, d, bias=True),
        **norms(d, "head.layernorm", bias=True),
        **feed_forward("head.mlp", ("fc1", "fc2"), d, tower.intermediate_size, bias=True),
    }
    return {
        "embeddings.patch_embedding.weight": _patch(tower),
        "embeddings.patch_embedding.bias": (d,),
        "embeddings.position_embedding.weight": ((tower.image_size // tower.patch_size) ** 2, d),
        **norms(d, "post_layernorm", bias=True),
        **_encoder(tower),
        **(head if tower.vision_use_head else {}),
    }


def _pixtral(tower: Any) -> Shapes:
    d = tower.hidden_size
    block = {
        **_attention("attention", d, "o_proj", bias=False),
        **feed_forward("feed_forward", _GATED, d, tower.intermediate_size),
        **norms(d, "attention_norm", "ffn_norm"),
    }
    layers = _repeated("transformer.layers", tower.num_hidden_layers, block)
    return {"patch_conv.weight": _patch(tower), **norms(d, "ln_pre"), **layers}


_TOWERS: dict[str, Callable[[Any], Shapes]] = {
    "clip_vision_model": _clip,
    "siglip_vision_model": _siglip,
    "pixtral": _pixtral,
}


def _encoder(tower: Any) -> Shapes:
    """The blocks of CLIP and SigLIP."""
    d = tower.hidden_size
    block = {
        **_attention("self_attn", d, "out_proj", bias=True),
        **feed_forward("mlp", ("fc1", "fc2"), d, tower.intermediate_size, bias=True),
        **norms(d, "layer_norm1", "layer_norm2", bias=True),
    }
    return _repeated("encoder.layers", tower.num_hidden_layers, block)


def _attention(path: str, d: int, output: str, *, bias: bool) -> Shapes:
    found: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", output):
        found |= linear(f"{path}.{name}", d, d, bias=bias)
    return found


def _fused_attention(d: int) -> Shapes:
    return {**linear("attn.qkv", 3 * d, d, bias=True), **linear("attn.proj", d, d, bias=True)}


def _patch(tower: Any) -> tuple[int, ...]:
    """A convolution that reads a patch of an image: d × channels × p × p."""
    return (tower.hidden_size, tower.num_channels, tower.patch_size, tower.patch_size)


def _volume(tower: Any) -> tuple[int, ...]:
    """The same of several frames at once."""
    return (tower.hidden_size, tower.in_channels, tower.temporal_patch_size, tower.patch_size, tower.patch_size)


def _repeated(path: str, count: int, block: Shapes) -> Shapes:
    return {f"{path}.{index}.{name}": shape for index in range(count) for name, shape in block.items()}


def _below(path: str, shapes: Shapes) -> Shapes:
    return {f"{path}.{name}": shape for name, shape in shapes.items()}
