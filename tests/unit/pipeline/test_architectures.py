"""Every architecture through the whole pass, against whole models in memory that share no code with it."""

import copy
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.pruning.patterns import Unstructured
from support.configurations import marked
from support.models import CONFIGS, save_corpora, save_model
from support.passes import MIX, draw, prune, pruned_tensors

# What checkpoints call an expert's gate, up and down projection, where transformers has fused parameters.
pytestmark = pytest.mark.long

MIXTRAL = tuple(f"block_sparse_moe.experts.{{}}.{name}" for name in ("w1", "w3", "w2"))
EXPERTS = {
    "mixtral": MIXTRAL,
    "phimoe": MIXTRAL,
    "minimax_m2": MIXTRAL,
    "granitemoe": tuple(f"block_sparse_moe.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
    **dict.fromkeys(
        ("nemotron_h", "nemotron_h narrow"), tuple(f"mixer.experts.{{}}.{name}_proj" for name in ("up", "down"))
    ),
    "granitemoehybrid": tuple(f"block_sparse_moe.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
    "gemma4_text": tuple(f"experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
    "llama4_text": tuple(f"feed_forward.experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
}
ELSEWHERE = tuple(f"mlp.experts.{{}}.{name}_proj" for name in ("gate", "up", "down"))
# Where they have one tensor for all experts: how to find the projections, out × in, in an expert's part of it.
GRANITE = {
    "block_sparse_moe.input_linear.weight": lambda both: both.chunk(2),
    "block_sparse_moe.output_linear.weight": lambda down: (down,),
}
PACKED = {
    "granitemoe": GRANITE,
    "granitemoehybrid": GRANITE,
    "gpt_oss": {
        "mlp.experts.gate_up_proj": lambda both: (both[:, ::2].T, both[:, 1::2].T),
        "mlp.experts.down_proj": lambda down: (down.T,),
    },
    "gemma4_text": {
        "experts.gate_up_proj": lambda both: both.chunk(2),
        "experts.down_proj": lambda down: (down,),
    },
    "llama4_text": {
        "feed_forward.experts.gate_up_proj": lambda both: both.T.chunk(2),
        "feed_forward.experts.down_proj": lambda down: (down.T,),
    },
}
# Linear layers that route, and are left as they are.
ROUTERS = ("mlp.router", "feed_forward.router", "mlp.shared_expert_gate", "router.proj")
GATES = ("linear_attn.in_proj_ba", "linear_attn.in_proj_b", "linear_attn.in_proj_a")


def names_of_experts(name):
    return [f"{below}.weight" for below in EXPERTS.get(name, ELSEWHERE)]


def matrices(tensors, name):
    """Name in the report → matrix, out × in, of everything that has two dimensions."""
    layout, names = PACKED.get(name, {}), names_of_experts(name)
    found = {}
    for key, tensor in tensors.items():
        stored = next((stored for stored in layout if key.endswith(stored)), None)
        below = names[:2] if stored and stored == next(iter(layout)) else names[2:]
        for expert, part in enumerate(tensor) if stored else ():
            for place, matrix in zip(below, layout[stored](part), strict=True):
                found[key.removesuffix(stored) + place.format(expert)] = matrix
        if tensor.dim() == 2:
            found[key] = tensor.T if name.startswith("gpt2") else tensor
    return found


# Classes of transformers that cannot run in float64: its lowest number is more than their masks can hold.
SINGLE = ("xglm",)


def load(folder, name):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if name in SINGLE else torch.float64,
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def save_changed(folder, original, changed):
    """The checkpoint in `original` with other values of some of its tensors."""
    folder.mkdir()
    shutil.copy(original / "config.json", folder)
    tensors = load_file(original / "model.safetensors")
    assert changed.keys() <= tensors.keys()
    assert all(tensor.dtype == tensors[name].dtype for name, tensor in changed.items())
    save_file({**tensors, **changed}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def blocks_of(model):
    """Their path, and the blocks."""
    lists = ((path, module) for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList))
    return next(lists)


@torch.no_grad()
def run_plainly(model, sample):
    """Perplexity over the text, and the hidden states after every block."""
    ids, is_text = sample.tokens, sample.is_text[:, 1:].flatten()
    states = []

    def keep(_, __, output):
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(keep) for block in blocks_of(model)[1]]
    logits = model(input_ids=ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return math.exp(
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1)[is_text], ids[:, 1:].flatten()[is_text])
    ), states


@torch.no_grad()
def wanda_scores(model, index, name, samples):
    """Name in the checkpoint → |W|·‖X‖ of every matrix of a block, from the definition."""
    path, block = f"{blocks_of(model)[0]}.{index}", blocks_of(model)[1][index]
    if name.startswith("nemotron_h"):
        path = path.replace("model.", "backbone.")
    weights, squares, handles = {}, {}, []

    def add(key, inputs, weight):
        weights[key] = weight
        squares[key] = squares.get(key, 0) + share * inputs.flatten(0, -2).square().sum(0)

    def see_experts(experts, args):
        gated = getattr(experts, "has_gate", True)
        for expert in range(experts.num_experts):
            fused, down = (experts.gate_up_proj if gated else experts.up_proj)[expert], experts.down_proj[expert]
            if len(args) == 1:  # every token for every expert, scaled by the router
                routed = args[0].view(experts.num_experts, -1, args[0].shape[-1])[expert]
                parts = fused.T.chunk(2)
                inner, down = experts.act_fn(routed @ parts[0].T) * (routed @ parts[1].T), down.T
            else:
                routed = args[0][(args[1] == expert).any(1)]
                fused, down = (fused.T, down.T) if experts.is_transposed else (fused, down)
                both = routed @ fused.T + (experts.gate_up_proj_bias[expert] if experts.has_bias else 0)
                parts = fused.chunk(1 + gated) if experts.is_concatenated else (fused[::2], fused[1::2])
                inner = (experts._apply_gate if gated else experts.act_fn)(both)
            seen = (*((routed, part) for part in parts), (inner, down))
            for below, (inputs, weight) in zip(names_of_experts(name), seen, strict=True):
                add(f"{path}.{below.format(expert)}", inputs, weight)

    for below, module in block.named_modules():
        if isinstance(module, torch.nn.Linear) and below not in (*ROUTERS, *GATES):
            key = f"{path}.{below}.weight"
            handles.append(module.register_forward_pre_hook(lambda m, args, key=key: add(key, args[0], m.weight)))
        elif isinstance(module, Conv1D):
            key = f"{path}.{below}.weight"
            handles.append(module.register_forward_pre_hook(lambda m, args, key=key: add(key, args[0], m.weight.T)))
        elif below.rpartition(".")[2] == "experts":
            handles.append(module.register_forward_pre_hook(see_experts))
    for language, weight in MIX.items():
        tokens = samples[language].tokens
        share = weight / tokens.numel()
        model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return {key: weight.abs() * squares[key].sqrt() for key, weight in weights.items()}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The text; all models have one tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    save_byte_tokenizer(folder, max_length=256)
    return draw(folder, *save_corpora(folder), MIX)


@pytest.fixture(scope="module", params=marked(CONFIGS))
def whole(request, samples, tmp_path_factory):
    """The name of a model, its folder, the model in memory, and what that makes of the evaluation text."""
    name = request.param
    folder = save_model(tmp_path_factory.mktemp("whole"), name, dtype=torch.bfloat16)
    dense = load(folder, name)
    return name, folder, dense, {language: run_plainly(dense, sample) for language, sample in samples[1].items()}


@pytest.mark.parametrize(("method", "order"), [("wanda", "block"), ("sparsegpt", "true_sequential")])
def test_a_pruned_model_is_the_one_that_a_plain_implementation_makes(whole, method, order, samples, tmp_path):
    (name, folder, dense, expected), (calibration, evaluation) = whole, samples
    result = prune(folder, samples, MIX, method, Unstructured(0.5), tmp_path, order=order)
    written = pruned_tensors(result, tmp_path)
    pruned_matrices = matrices(written, name)
    for layer in (layer for record in result.blocks for layer in record.layers):
        matrix = pruned_matrices[layer.name]
        assert layer.zeros == int((matrix == 0).sum()) == matrix.numel() // 2

    # What was written loads as the original does, and has the perplexity and the hidden states that the pass found.
    pruned = load(save_changed(tmp_path / "pruned", folder, written), name)
    for language, sample in evaluation.items():
        perplexities, states = zip(expected[language], run_plainly(pruned, sample), strict=True)
        for losses, perplexity in zip((result.dense[language], result.pruned[language]), perplexities, strict=True):
            assert losses.tokens == int(sample.is_text[:, 1:].sum()) < sample.tokens[:, 1:].numel()
            assert math.exp(losses.nats / losses.tokens) == pytest.approx(perplexity, rel=1e-4)
        for record, clean, noisy in zip(result.blocks, *states, strict=True):
            ratio = 10 * math.log10(clean.square().sum() / (clean - noisy).square().sum())
            assert record.snr_db[language] == pytest.approx(ratio, abs=1e-3)
            assert ratio < 30, "pruning had hardly any effect"

    # Every matrix of every block has lost its smallest scores, on what the pruned blocks before it produce.
    dense = copy.deepcopy(dense)
    for record in result.blocks if method == "wanda" else ():
        scores = wanda_scores(dense, record.index, name, calibration)
        assert scores.keys() == {layer.name for layer in record.layers}
        for key, score in scores.items():
            zero = pruned_matrices[key] == 0
            assert (zero.sum(1) == zero.shape[1] // 2).all()
            largest_gone = score.masked_fill(~zero, 0).amax(1)
            smallest_kept = score.masked_fill(zero, torch.inf).amin(1)
            assert (largest_gone <= smallest_kept * (1 + 1e-5)).all(), key  # but for what ties in float32
        blocks_of(dense)[1][record.index].load_state_dict(blocks_of(pruned)[1][record.index].state_dict())
