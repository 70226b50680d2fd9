"""How fast a smaller model decodes, beside the dense one.

    python benchmarks/decode.py --model DENSE --smaller FOLDER [FOLDER ...] [--prompt "Вчора я"] [--rounds 5]
    python benchmarks/decode.py --small

Each model continues the prompts greedily, one text at a time, with transformers and a key/value cache, on the device
that is given (default: the CPU, with one thread). The models take turns, so that load on the machine meets all of them.
Prints tokens per second of the median round, the ratio to the dense model, and the bytes of weights that each token
reads, which is what the ratio should follow. On a CPU the time is the process's, not the clock's.

Written to decode-MODEL.json, with what each model wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from small import add_options, write_material
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from secateur_service.library import prune
from secateur_service.models.checkpoint import open_checkpoint
from secateur_service.pipeline.fingerprint import device_name
from secateur_service.sizing.serving import cache_bytes, decoding_bytes

PROMPTS = ("The city", "Вчора", "Gestern")


class Contestant:
    """A model that decodes."""

    def __init__(self, folder: Path, device: torch.device, dtype: str) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.device = device
        self.rates: list[float] = []
        self.texts: dict[str, str] = {}

    @torch.no_grad()
    def decode(self, prompt: str, count: int) -> None:
        """Continue a prompt by `count` tokens, and note how fast."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.device)
        inputs.pop("token_type_ids", None)
        began = self._clock()
        output = self.model.generate(
            **inputs, do_sample=False, min_new_tokens=count, max_new_tokens=count, repetition_penalty=1.2
        )
        self.rates.append(count / (self._clock() - began))
        self.texts[prompt] = self.tokenizer.decode(output[0], skip_special_tokens=True)

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def figures(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "parameters": self.checkpoint.parameters,
            "decoding_bytes": decoding_bytes(self.checkpoint),
            "cache_bytes": cache_bytes(self.checkpoint),
            "tokens_per_second": statistics.median(self.rates),
            "texts": self.texts,
        }


@contextlib.contextmanager
def folders_of(options: argparse.Namespace) -> Iterator[tuple[Path, list[Path]]]:
    """The dense model and the smaller ones; in the small form, one made here."""
    if not options.small:
        yield options.model, options.smaller
        return
    with tempfile.TemporaryDirectory() as folder:
        material = write_material(Path(folder), words=400)
        spec = secateur.prune_spec(
            material.model.as_uri(),
            corpus=material.calibration.as_uri(),
            languages=["de"],
            samples=4,
            sequence_length=64,
            tokens_per_language=128,
            feed_forward_channels=48,
        )
        prune(spec, Path(folder) / "result")
        yield material.model, [Path(folder) / "result" / "checkpoint"]


def main() -> None:
    """Measure, and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--model", type=Path, help="folder of the dense model")
    parser.add_argument("--smaller", type=Path, nargs="+", help="folders of smaller models")
    parser.add_argument("--prompt", nargs="+", default=PROMPTS, help="texts to continue; default %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each continuation; default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default cpu")
    parser.add_argument("--dtype", default="float32", help="type of the weights while decoding; default %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; default %(default)s")
    options = parser.parse_args()
    if not options.small and not (options.model and options.smaller):
        parser.error("give --model and --smaller, or --small")
    if options.small:
        options.tokens, options.rounds = 8, 2
    torch.set_num_threads(options.threads)
    with folders_of(options) as (dense, smaller):
        models = {folder: Contestant(folder, options.device, options.dtype) for folder in (dense, *smaller)}
        for contestant in models.values():  # the first text is slower
            contestant.decode(options.prompt[0], 8)
            contestant.rates.clear()
        for _ in range(options.rounds):
            for prompt in options.prompt:
                for contestant in models.values():
                    contestant.decode(prompt, options.tokens)
        figures = {name_of(folder): contestant.figures() for folder, contestant in models.items()}
    found = {
        "device": device_name(options.device),
        "dtype": options.dtype,
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "models": figures,
    }
    path = options.output / f"decode-{dense.resolve().name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show(list(figures.items()))
    print(f"written: {path}")


def name_of(folder: Path) -> str:
    """A model's name: that of the folder that holds `checkpoint`, or of the folder itself."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "checkpoint" else folder.name


def show(figures: list[tuple[str, dict[str, Any]]]) -> None:
    """Print a line for each model, the dense one first."""
    dense = figures[0][1]
    for name, found in figures:
        rate, read = (found[key] / dense[key] for key in ("tokens_per_second", "decoding_bytes"))
        print(
            f"{name:<28} {found['parameters']:>13,} parameters {found['tokens_per_second']:8.1f} tokens/s "
            f"(×{rate:.2f}), {found['decoding_bytes'] / 2**20:8.1f} MiB read per token (×{read:.2f})"
        )
        for text in found["texts"].values():
            print(f"    {' '.join(text.split())[:140]}")


if __name__ == "__main__":
    main()
