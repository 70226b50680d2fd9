"""Peak memory on a model of 3 billion parameters: pruned from disk to disk, a block at a time.

    python benchmarks/large_model.py [--folder DIR] [--blocks 28] [--small] [--output DIR]

Writes a Llama with random bfloat16 weights (hidden 3072, 28 layers, intermediate 8192, vocabulary 32,000; about 6 GB),
prunes it using `secateur-service run` with Wanda on 16 sequences of 128 tokens, and samples the process's RssAnon, its
own memory, every 50 ms. Writes benchmarks/results/large_model.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch
from small import add_options
from torch import Tensor
from transformers import LlamaConfig

import secateur_service.commands.demo
from secateur_service.commands.demo.tokenizer import save_byte_tokenizer
from secateur_service.models.safetensors import write_shard
from secateur_service.models.tensors import output_tensor

TEXT = Path(secateur_service.commands.demo.__file__).parent / "text"
VOCABULARY = 32000
LANGUAGES = ("de", "uk")
INTERVAL_SECONDS = 0.05


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama, with three query heads for each of key and value."""

    hidden: int
    intermediate: int
    heads: int
    blocks: int

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    @property
    def key_value(self) -> int:
        """Width of all keys."""
        return self.hidden // 3


LARGE = Shape(hidden=3072, intermediate=8192, heads=24, blocks=28)
SMALL = Shape(hidden=96, intermediate=256, heads=3, blocks=2)


def blocks(shape: Shape) -> Iterator[dict[str, Tensor]]:
    """The tensors of each block, then those outside; generated lazily."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).bfloat16()

    shapes = {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (shape.key_value, shape.hidden),
        "self_attn.v_proj": (shape.key_value, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }
    norm = torch.ones(shape.hidden, dtype=torch.bfloat16)
    for index in range(shape.blocks):
        prefix = f"model.layers.{index}"
        norms = {f"{prefix}.{name}.weight": norm for name in ("input_layernorm", "post_attention_layernorm")}
        yield norms | {f"{prefix}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
    yield {
        "model.embed_tokens.weight": matrix(VOCABULARY, shape.hidden),
        "model.norm.weight": norm,
        "lm_head.weight": matrix(VOCABULARY, shape.hidden),
    }


def write_model(folder: Path, shape: Shape) -> int:
    """Write the model, one shard per block; returns its number of parameters."""
    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 3,
        head_dim=shape.head_size,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    weight_map, parameters = {}, 0
    for number, tensors in enumerate(blocks(shape)):
        shard = write_shard(folder, f"model-{number:02d}", [output_tensor(*item) for item in tensors.items()])
        weight_map |= dict.fromkeys(tensors, shard.name)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_byte_tokenizer(folder, max_length=2048)
    return parameters


def write_spec(path: Path, model: Path) -> None:
    """Wanda at 50 % on 16 sequences of 128 tokens of the project's own text."""
    spec = {
        "model": {"uri": model.as_uri()},
        "calibration": {"corpus": TEXT.as_uri(), "languages": list(LANGUAGES), "samples": 16, "sequence_length": 128},
        "pruning": {"method": "wanda", "sparsity": 0.5},
        "evaluation": {"tokens_per_language": 256, "continuations": 0},
    }
    path.write_text(json.dumps(spec))  # JSON is YAML


def watch(process: subprocess.Popen[str]) -> int:
    """Peak RssAnon of a process until it ends, in bytes."""
    highest = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:
            break
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        highest = max(highest, int(found[1]) * 1024 if found else 0)
        time.sleep(INTERVAL_SECONDS)
    return highest


def main() -> None:
    """Write the model, prune it, and report the cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where 18 GB are free; default a temporary folder")
    parser.add_argument("--blocks", type=int, default=LARGE.blocks, help="fewer for a quick look")
    add_options(parser)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    shape = SMALL if options.small else replace(LARGE, blocks=options.blocks)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        base = Path(name)
        parameters = write_model(base / "model", shape)
        write_spec(base / "spec.yaml", base / "model")
        print(f"written: {parameters / 1e9:.2f} billion parameters", flush=True)
        # The command next to this interpreter: the watched process must be the one that prunes.
        command = [Path(sys.executable).parent / "secateur-service", "run", base / "spec.yaml"]
        command += ["--output", base / "out", "--threads", "1", "--json"]
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        peak = watch(process)
        output, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the run failed with exit code {process.returncode}")
        summary = json.loads(output.splitlines()[-1])
        provenance = json.loads((base / "out" / "provenance.json").read_text())
    result = {
        "blocks": shape.blocks,
        "parameters": parameters,
        "peak_rss_anon_bytes": peak,
        "peak_rss_bytes": summary["peak_rss_bytes"],
        "estimated_peak_host_bytes": provenance["estimate"]["peak_host_bytes"],
        "sparsity": summary["sparsity"],
        "cpu_seconds": summary["cpu_seconds"],
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }
    print(f"peak RssAnon {peak / 1e9:.2f} GB, estimated {result['estimated_peak_host_bytes'] / 1e9:.2f} GB")
    path = options.output / "large_model.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
