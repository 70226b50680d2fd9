"""What happens to each file of a model's folder: one table, shown in the docs.

Every file is explicitly taken, left out or refused. Names are paths relative to the folder; the first matching rule
applies. Imports no torch.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Use(enum.StrEnum):
    """What is done with a file."""

    WEIGHTS = "weights"
    """Its tensors are read, and written to files with names of our own."""
    REWRITTEN = "rewritten"
    """It is read, and a new file of the same name is published."""
    TOKENIZER = "tokenizer"
    """It is published unchanged, and text is tokenised with it; if that is impossible, the job fails."""
    CARRIED = "carried"
    """It is published unchanged; if it cannot be read, it is left out with a warning."""
    LEFT_OUT = "left out"
    REFUSED = "refused"


@dataclass(frozen=True)
class Rule:
    """What is done with files whose names match.

    Attributes:
        patterns: for names, in lower case where `any_case`; `*` matches no slash.
        reason: why, for logs and documentation.
        any_case: whether to ignore case.
    """

    use: Use
    patterns: tuple[str, ...]
    reason: str
    any_case: bool = False

    def matches(self, name: str) -> bool:
        """Whether the rule applies to a file."""
        name = name.lower() if self.any_case else name
        return any(
            name.count("/") == pattern.count("/") and fnmatchcase(name, pattern.replace("[", "[[]"))
            for pattern in self.patterns
        )


RULES: tuple[Rule, ...] = (
    Rule(
        Use.REFUSED,
        ("adapter_config.json",),
        "with an adapter beside it, transformers loads another model than vLLM; merge it (merge_and_unload of peft) or "
        "take adapter_config.json out of the folder",
    ),
    Rule(Use.REWRITTEN, ("config.json",), "with a note on the pruning, without `auto_map` and choices of kernels"),
    Rule(Use.REWRITTEN, (INDEX,), "names the files of the weights, and is written anew"),
    Rule(Use.REWRITTEN, ("README.md",), "its license goes into the model card that takes its place"),
    Rule(
        Use.LEFT_OUT,
        ("consolidated*.safetensors", "consolidated*.index.json", "params.json"),
        "the same weights in Mistral's own form, which would not be pruned",
    ),
    Rule(Use.LEFT_OUT, ("adapter*.safetensors",), "weights of an adapter"),
    Rule(Use.WEIGHTS, ("*.safetensors",), "those that the index names, or `model.safetensors` where there is no index"),
    Rule(
        Use.LEFT_OUT,
        ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.npz"),
        "weights in other formats are never opened",
    ),
    Rule(Use.LEFT_OUT, ("*.py",), "code that a model brings is neither run nor published"),
    Rule(Use.TOKENIZER, ("tokenizer.json", "tokenizer.*.json", "tokenizer_config.json"), "the tokenizer"),
    Rule(
        Use.CARRIED,
        (
            "special_tokens_map.json",
            "added_tokens.json",
            "vocab.json",
            "vocab.txt",
            "merges.txt",
            "tekken.json",
            "*.model",
            "*.model.v*",
            "*.tiktoken",
        ),
        "the tokenizer in other forms",
    ),
    Rule(
        Use.CARRIED,
        ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja", "chat_templates/*.jinja"),
        "chat templates",
    ),
    Rule(Use.CARRIED, ("generation_config.json",), "how the model writes where nothing else is asked for"),
    Rule(
        Use.CARRIED,
        ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
        "processors of other inputs",
    ),
    Rule(
        Use.CARRIED,
        (
            "*license*",
            "*licence*",
            "licenses/*",
            "notice*",
            "copying*",
            "copyright*",
            "*use_policy*",
            "*use-policy*",
            "*terms*",
            "patents*",
            "authors*",
        ),
        "licenses, notices and terms",
        any_case=True,
    ),
    Rule(Use.LEFT_OUT, ("*",), "nothing that loads the model reads it"),
)

REFUSED = {name: rule.reason for rule in RULES if rule.use is Use.REFUSED for name in rule.patterns}
"""Names of files whose presence causes a refusal, each with the reason."""

IN_SUBFOLDER = Rule(Use.LEFT_OUT, ("*/*",), "files of subfolders belong to no model in this folder")


def rule_of(name: str) -> Rule:
    """What happens to a file, given its path relative to the model's folder."""
    return next((rule for rule in RULES if rule.matches(name)), IN_SUBFOLDER)


def checkpoint_files(names: Collection[str]) -> list[str]:
    """The files of a folder that are used: all that are not left out."""
    return [name for name in names if rule_of(name).use is not Use.LEFT_OUT]


def left_out(names: Collection[str]) -> dict[str, str]:
    """The files that are left out because of their names, each with the reason."""
    return {name: rule.reason for name in sorted(names) if (rule := rule_of(name)).use is Use.LEFT_OUT}
