import pytest

from secateur_service.models.files import RULES, Use, checkpoint_files, left_out, rule_of

FATE = {
    Use.REFUSED: ["adapter_config.json"],
    Use.REWRITTEN: ["config.json", "model.safetensors.index.json", "README.md"],
    Use.WEIGHTS: ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model-1.safetensors"],
    Use.TOKENIZER: ["tokenizer.json", "tokenizer_config.json", "tokenizer.4.0.0.json"],
    Use.CARRIED: [
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "vocab.txt",
        "merges.txt",
        "tokenizer.model",
        "tokenizer.model.v3",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tekken.json",
        "qwen.tiktoken",
        "chat_template.jinja",
        "chat_template.json",
        "additional_chat_templates/tool_use.jinja",
        "chat_templates/tool_use.jinja",
        "preprocessor_config.json",
        "processor_config.json",
        *("LICENSE", "LICENSE.txt", "LICENSE.md", "license", "Licence.txt", "LICENSE-MODEL", "MODEL_LICENSE.pdf"),
        *("NOTICE", "Notice.txt", "COPYING", "COPYING.LESSER", "COPYRIGHT.md", "USE_POLICY.md", "use-policy.txt"),
        *("TERMS.md", "gemma_terms_of_use.md", "PATENTS", "AUTHORS", "LICENSES/MIT.txt"),
    ],
    Use.LEFT_OUT: [
        *("consolidated.safetensors", "consolidated.00.safetensors", "params.json", "adapter_model.safetensors"),
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "tf_model.h5", "model.gguf"),
        *("flax_model.msgpack", "modeling_llama.py", "training_args.bin", "optimizer.pt", "model.onnx"),
        *("original/consolidated.00.pth", "original/tokenizer.model", "original/params.json", "onnx/model.onnx"),
        *("a/b/c/LICENSE", "sub/config.json", "sub/model.safetensors", "sub/adapter_config.json", "README.md/x"),
        *("images/plot.png", ".gitattributes", "CHANGELOG.md", "readme.md", "trainer_state.json", "notes[1].txt"),
    ],
}


@pytest.mark.parametrize(("use", "name"), [(use, name) for use, names in FATE.items() for name in names])
def test_every_file_is_taken_left_out_or_refused_on_purpose(use, name):
    assert rule_of(name).use is use
    assert (name in checkpoint_files([name])) == (use is not Use.LEFT_OUT)
    assert (name in left_out([name])) == (use is Use.LEFT_OUT)


def test_every_rule_says_why_and_no_two_are_about_the_same_names():
    patterns = [pattern for rule in RULES for pattern in rule.patterns]
    assert len(set(patterns)) == len(patterns)
    assert all(rule.reason for rule in RULES)
