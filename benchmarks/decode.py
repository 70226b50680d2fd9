"""How fast a smaller model decodes, beside the dense one.

    python benchmarks/decode.py --model DENSE --smaller FOLDER [FOLDER ...] [--prompt "Вчора я"] [--rounds 5]
    python benchmarks/decode.py --engine llama.cpp --dtype q8_0 --model DENSE --smaller FOLDER [--text FOLDER]
    python benchmarks/decode.py --small

Each model continues the prompts greedily, one text at a time, with a key/value cache: in transformers, on the device
that is given (default: the CPU, with one thread), or in llama.cpp on the CPU. The models take turns, so that load on
the machine meets all of them. Prints tokens per second of the median round, the ratio to the dense model, and the bytes
of weights that each token reads, in the checkpoint's type, which is what the ratio should follow. On a CPU the time is
the process's, not the clock's.

For llama.cpp (pip install -e '.[llama-cpp]') scripts/convert_to_gguf.py makes a temporary GGUF file of each folder.
With --text, llama.cpp and transformers encode lines of text, and those with the same ids are counted.

Written to decode-MODEL.json or decode-MODEL-llama.cpp-DTYPE.json, with what each model wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from engines import Contestant, InLlamaCpp, InTransformers, convert, missing, versions
from small import add_options, write_material

import secateur
from secateur_service.library import prune
from secateur_service.pipeline.fingerprint import device_name

PROMPTS = ("The city", "Вчора", "Gestern")
ENGINES = {"transformers": (InTransformers, "float32"), "llama.cpp": (InLlamaCpp, "bf16")}
"""With the type of the weights by default."""
LINES = 200
"""Of each text whose ids are compared."""


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
            continuations=0,
            feed_forward_channels=48,
        )
        prune(spec, Path(folder) / "result")
        yield material.model, [Path(folder) / "result" / "checkpoint"]


@contextlib.contextmanager
def contestants(folders: Sequence[Path], options: argparse.Namespace) -> Iterator[dict[Path, Contestant]]:
    """The models of the folders, the dense one first, ready to decode."""
    if options.engine == "transformers":
        yield {folder: InTransformers(folder, options.device, options.dtype) for folder in folders}
        return
    models: dict[Path, InLlamaCpp] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, folder in enumerate(folders):
            file = Path(temporary) / f"{number}.gguf"
            pre = ["--pre", options.pre] if options.pre else []
            convert(folder, folders[0], file, "--outtype", options.dtype, *pre)
            models[folder] = InLlamaCpp(folder, file, options.threads)
            for text in sorted(options.text.glob("*.txt")) if options.text else ():
                models[folder].compare_ids(text.stem, text.read_text(encoding="utf-8").splitlines()[:LINES])
        yield models


def main() -> None:
    """Measure, and print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--engine", choices=ENGINES, default="transformers", help="default %(default)s")
    parser.add_argument("--model", type=Path, help="folder of the dense model")
    parser.add_argument("--smaller", type=Path, nargs="+", help="folders of smaller models")
    parser.add_argument("--prompt", nargs="+", default=PROMPTS, help="texts to continue; default %(default)s")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each continuation; default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default cpu")
    parser.add_argument("--dtype", help="of the weights; default float32, for llama.cpp bf16 (others: f16, q8_0)")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU; default %(default)s")
    parser.add_argument("--pre", help="for a converter that does not know the dense model's tokenizer")
    parser.add_argument("--text", type=Path, help="folder of text files whose token ids llama.cpp has to agree on")
    options = parser.parse_args()
    if not options.small and not (options.model and options.smaller):
        parser.error("give --model and --smaller, or --small")
    kind, dtype = ENGINES[options.engine]
    options.dtype = options.dtype or dtype
    if kind is InLlamaCpp and (absent := missing(kind.packages)):
        parser.error(f"--engine llama.cpp needs {' and '.join(absent)}: pip install -e '.[llama-cpp]'")
    if kind is InLlamaCpp and options.device.type != "cpu":
        parser.error("--engine llama.cpp runs on the CPU only")
    if options.small:
        options.tokens, options.rounds, options.pre = 8, 2, "gpt-2"
    torch.set_num_threads(options.threads)
    with folders_of(options) as (dense, smaller), contestants([dense, *smaller], options) as models:
        for contestant in models.values():  # the first text is slower
            contestant.decode(options.prompt[0], 8)
            contestant.rates.clear()
        for _ in range(options.rounds):
            for prompt in options.prompt:
                for contestant in models.values():
                    contestant.decode(prompt, options.tokens)
        figures = {name_of(folder): contestant.figures() for folder, contestant in models.items()}
    found = {
        "engine": options.engine,
        "device": device_name(options.device),
        "dtype": options.dtype,
        "threads": options.threads,
        **versions(kind.packages),
        "models": figures,
    }
    engine = "" if kind is InTransformers else f"-{options.engine}-{options.dtype}"
    path = options.output / f"decode-{dense.resolve().name}{engine}.json"
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
        if found.get("equal_ids"):
            counts = (f"{text} {equal} of {lines}" for text, (equal, lines) in found["equal_ids"].items())
            print(f"    lines with the same ids in transformers: {', '.join(counts)}")
        for text in found["texts"].values():
            print(f"    {' '.join(text.split())[:140]}")


if __name__ == "__main__":
    main()
