"""Models with a smaller vocabulary: read by transformers alone, equal on covered text, resumed, and refused in time."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer
from transformers.pytorch_utils import Conv1D

from secateur_service.errors import CancelledError, PermanentError
from secateur_service.models.architectures import ARCHITECTURES
from secateur_service.pipeline import shrinking
from secateur_service.pipeline.observer import RecordingObserver
from support.configurations import marked
from support.models import CONFIGS
from support.reloading import bits_per_byte, held_out, loaded
from support.shrinking import (
    AXES,
    DEPTH,
    HEADS,
    LANGUAGES,
    VOCABULARY,
    WIDTH,
    Stops,
    admitted,
    assert_reloads,
    data_of,
    refusals,
    run,
    run_resolved,
)
from support.vocabularies import KINDS, LINES, save_scene

pytestmark = pytest.mark.long


def row_of(architecture):
    return ARCHITECTURES[architecture.partition(" ")[0]]


NARROW = [name for name in CONFIGS if row_of(name).feed_forward and row_of(name).feed_forward.size]
FEWER_HEADS = [name for name in CONFIGS if row_of(name).attention]


@pytest.mark.parametrize("architecture", marked(CONFIGS))
def test_every_architecture_loads_with_all_that_its_blocks_and_its_vocabulary_can_lose(tmp_path, corpora, architecture):
    """One job for all of it: every row has one, and none of these axes touches what another one cuts."""
    model = save_scene(tmp_path / "model", architecture=architecture)
    shrink = {
        **VOCABULARY,
        **({"feed_forward": {"channels": 40}} if architecture in NARROW else {}),
        **({"kv_heads": {"remove": 1}} if architecture in FEWER_HEADS else {}),
    }
    report = run(data_of(model, corpora, **shrink), tmp_path / "out").report
    smaller, _ = assert_reloads(model, corpora, tmp_path / "out", report)
    assert smaller.config.vocab_size == report.vocabulary.rows
    dense, _ = loaded(model)
    plan = json.loads((tmp_path / "out" / "plan.json").read_bytes())
    if architecture in NARROW:
        assert_narrower(row_of(architecture), dense, smaller, plan["feed_forward"])
    if architecture in FEWER_HEADS:
        assert report.output.cache_bytes == report.model.cache_bytes // 2
        assert_fewer_heads(dense, smaller, plan["attention"])


def test_every_architecture_has_a_configuration():
    assert {name.partition(" ")[0] for name in CONFIGS} == set(ARCHITECTURES)


def assert_narrower(row, dense, smaller, plan):
    """The channels that the plan names are those of the dense model, in its order."""
    layout, path = row.feed_forward, row.blocks
    assert getattr(smaller.config, layout.size) == 40
    width = getattr(dense.config, layout.size) or 4 * dense.config.hidden_size
    experts = {index: experts_of(dense, path, index) for index in range(3)} if layout.of_experts else {}
    assert [entry["block"] for entry in plan] == [index for index in range(3) if experts.get(index, 1)]
    for entry in plan:
        kept = [channel for first, last in entry["kept"] for channel in range(first, last + 1)]
        count = experts.get(entry["block"], 1)
        assert (len(kept), entry["before"]) == (40 * count, width * count)
        assert 0 < entry["errors"]["uk"] < 1
        before, after = (each.get_submodule(f"{path}.{entry['block']}") for each in (dense, smaller))
        if layout.of_experts:
            for number in range(count):
                channels = [channel - width * number for channel in kept if channel // width == number]
                rows = [*channels, *(channel + width for channel in channels)]  # gate and up projection in one
                one, other = (each.mlp.experts.gate_up_proj[number] for each in (before, after))
                assert torch.equal(other, one[rows])
            continue
        rows = [channel + part * width for part in range(layout.fused) for channel in kept]
        for name in layout.inputs:
            one, other = (each.get_submodule(name) for each in (before, after))
            new, old = (each.weight.T if isinstance(each, Conv1D) else each.weight for each in (other, one))
            assert torch.equal(new, old[rows])
            assert one.bias is None or torch.equal(other.bias, one.bias[rows])


def assert_fewer_heads(dense, smaller, plan):
    """The heads that the plan names are those of the dense model."""
    assert (smaller.config.num_key_value_heads, smaller.config.num_attention_heads) == (1, 2)
    assert [entry["block"] for entry in plan] == [0, 1, 2]
    for entry, block, before in zip(plan, smaller.model.layers, dense.model.layers, strict=True):
        ((head, last),) = entry["kept"]
        assert head == last < entry["before"] == 2
        assert 0 < entry["errors"]["uk"] < 1
        keys = slice(16 * head, 16 * (head + 1))
        queries = slice(32 * head, 32 * (head + 1))
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            one, other = (getattr(each.self_attn, name) for each in (block, before))
            assert torch.equal(one.weight, other.weight[rows])
            assert one.bias is None or torch.equal(one.bias, other.bias[rows])


def experts_of(model, path, index):
    """The number of experts of a block."""
    return getattr(getattr(model.get_submodule(f"{path}.{index}").mlp, "experts", None), "num_experts", 0)


def test_architectures_whose_channels_stay():
    # A width that the configuration does not have, or that shared experts have too; experts in one tensor.
    stay = {"bloom", "glm4_moe", "ernie4_5_moe", "cohere2_moe", "deepseek_v2", "deepseek_v3"}
    stay |= {"glm4_moe_lite", "dots1", "solar_open", "exaone_moe"}
    stay |= {"granitemoe", "gpt_oss", "llama4_text"}
    stay |= {"lfm2", "nemotron_h"}  # it follows from other fields, or only some blocks have feed-forward layers
    assert {name.partition(" ")[0] for name in CONFIGS if name not in NARROW} == stay


def test_architectures_whose_heads_stay():
    # A norm over all heads, or a width of heads that follows from their number.
    stay = {"phi3", "olmo2", "olmo3", "olmoe", "helium", "gpt2", "gpt_neox", "opt", "xglm", "phi", "stablelm"}
    stay |= {"falcon", "bloom", "minimax_m2"}
    stay |= {"gemma4_text", "gemma4_unified_text"}  # two kinds of blocks have heads of their own sizes
    stay |= {"gpt_oss", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"}  # what heads have besides rows of projections
    # Only some blocks have attention.
    stay |= {"lfm2", "qwen3_5_text", "qwen3_next", "granitemoehybrid", "nemotron_h"}
    assert {name.partition(" ")[0] for name in CONFIGS if name not in FEWER_HEADS} == stay


def is_fixed(architecture):
    row = row_of(architecture)
    return row.fixed_depth or any(CONFIGS[architecture].get(switch) for switch in row.numbered)


def test_blocks_that_depend_on_their_number_stay(corpora, tmp_path):
    model = save_scene(tmp_path / "model", architecture="gpt2 untied")
    found = refusals(data_of(model, corpora, **DEPTH))
    assert "blocks of this gpt2 model cannot be removed" in found["shrink.blocks"]
    assert admitted(data_of(model, corpora, **WIDTH))


@pytest.mark.parametrize("architecture", marked(name for name in CONFIGS if not is_fixed(name)))
def test_every_architecture_loads_with_fewer_blocks(tmp_path, corpora, architecture):
    model = save_scene(tmp_path / "model", architecture=architecture)
    report = run(data_of(model, corpora, blocks={"remove": 1}), tmp_path / "out").report
    smaller, _ = assert_reloads(model, corpora, tmp_path / "out", report)
    dense, _ = loaded(model)
    (removed,) = report.removed_blocks
    kept = [index for index in range(3) if index != removed.block]
    assert report.output.blocks == len(report.blocks) == 2
    if isinstance(getattr(dense.config, "layer_types", None), list):
        assert smaller.config.layer_types == [dense.config.layer_types[index] for index in kept]
    old, new = (each.get_submodule(row_of(architecture).blocks) for each in (dense, smaller))
    layout, changed = row_of(architecture).feed_forward, set()
    for place, index in enumerate(kept):
        for (name, one), other in zip(new[place].named_parameters(), old[index].parameters(), strict=True):
            if not torch.equal(one, other):
                changed.add((index, name))
    # The block before makes up for the one that is gone, and those after it for what is left of the difference.
    follows = layout and not (layout.normed or layout.of_experts) and architecture != "opt projected"
    after = [index for index in kept if index >= removed.block - 1] if follows else []
    assert changed == {(index, f"{layout.output}.weight") for index in after}


@pytest.mark.parametrize("order", ["block", "true_sequential", "dense"])
def test_a_narrow_model_with_fewer_words_is_pruned_as_well(model, corpora, tmp_path, order):
    pruning = {"method": "sparsegpt", "sparsity": 0.5, "order": order}
    data = data_of(model, corpora, pruning=pruning, **VOCABULARY, feed_forward={"share": 0.3, "multiple_of": 8})
    observer = RecordingObserver()
    report = run(data, tmp_path, observer).report
    assert {block.feed_forward.kept for block in report.blocks} == {64}
    assert report.sparsity.pruned_layers == pytest.approx(0.5, abs=0.01)
    assert_reloads(model, corpora, tmp_path, report)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "What the narrowed feed-forward layers lose" in page
    assert "64 of 96 feed-forward channels" in page


@pytest.mark.parametrize("shrink", AXES, ids="-".join)
def test_progress_reaches_its_end_where_no_weights_are_pruned(model, corpora, tmp_path, shrink):
    observer = RecordingObserver()
    run(data_of(model, corpora, **shrink), tmp_path, observer)
    fractions = [progress.fraction for progress in observer.history]
    assert fractions == sorted(fractions)
    assert fractions[-2] > 0.97


@pytest.mark.parametrize("prior", ["model", "ranks"])
def test_the_bar_has_room_for_the_blocks_after_the_vocabulary_is_chosen(model, corpora, tmp_path, prior):
    observer = RecordingObserver()
    vocabulary = {"extra_tokens": 0.02, "prior": prior}
    run(data_of(model, corpora, pruning={"sparsity": 0.5}, vocabulary=vocabulary), tmp_path, observer)
    assert next(progress.fraction for progress in observer.history if progress.blocks_done == 1) < 0.9


def test_what_is_calibrated_on_loses_less_than_what_is_not(model, corpora, tmp_path):
    errors = {}
    for language in ("uk", "de"):
        mix = ((language, 1.0), ({"uk": "de", "de": "uk"}[language], 0.0))
        report = run(data_of(model, corpora, mix=mix, feed_forward={"channels": 32}), tmp_path / language).report
        found = {entry.language: entry.pruned_bits_per_byte / entry.dense_bits_per_byte for entry in report.evaluation}
        errors[language] = found["uk"]
        assert set(report.blocks[0].feed_forward.errors) == {language}
    assert errors["uk"] < errors["de"]


@pytest.mark.parametrize("kind", KINDS)
def test_text_whose_tokens_are_kept_has_the_same_states_and_no_higher_loss(tmp_path, corpora, kind):
    model = save_scene(tmp_path / "model", kind=kind, tie_word_embeddings=True)
    report = run(data_of(model, corpora), tmp_path / "out").report
    smaller, tokenizer = assert_reloads(model, corpora, tmp_path / "out", report)
    dense, before = loaded(model)
    old = json.loads((tmp_path / "out" / "checkpoint" / "vocab_map.json").read_text())["old_ids"]
    covered = 0
    for line in LINES[::7]:
        ids = before(line)["input_ids"]
        if set(ids) <= set(old):
            covered += 1
            new = tokenizer(line)["input_ids"]
            assert [old[token] for token in new] == ids
            with torch.no_grad():
                first = dense(torch.tensor([ids]), output_hidden_states=True)
                second = smaller(torch.tensor([new]), output_hidden_states=True)
            for one, other in zip(first.hidden_states, second.hidden_states, strict=True):
                assert torch.equal(one, other)
            rows = first.logits[0, :, old]
            assert torch.allclose(rows, second.logits[0], atol=1e-5)
            losses = [logits.logsumexp(-1) for logits in (first.logits[0], second.logits[0])]
            assert (losses[1] <= losses[0] + 1e-5).all()
    assert covered > 10


def test_the_report_says_what_the_vocabulary_means_for_each_language(model, corpora, tmp_path):
    data = data_of(model, corpora, mix=(("uk", 0.5), ("de", 0.5)), keep_languages=["uk"])
    finished = run(data, tmp_path)
    found = finished.report.vocabulary
    assert set(found.languages) == {"uk", "en"}
    assert found.rows % 64 == 0
    kept, lost = found.languages["uk"], found.languages["en"]
    assert kept.expected_extra_tokens <= 0.02
    assert abs(kept.extra_tokens) < 0.06
    assert kept.coverage > 0.9 > lost.coverage
    assert lost.expected_extra_tokens is None
    assert lost.extra_tokens > 0.5
    assert kept.counted_bytes > 10_000
    plan = json.loads((tmp_path / "plan.json").read_bytes())
    ids = [number for first, last in plan["vocabulary"]["kept"] for number in range(first, last + 1)]
    assert ids == json.loads((tmp_path / "checkpoint" / "vocab_map.json").read_bytes())["old_ids"]
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "What the smaller vocabulary means" in page
    assert "Zeros alone" not in page
    assert not any(block.layers for block in finished.report.blocks)
    card = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "Use the tokenizer in this folder" in card
    assert "Zeros alone" not in card
    assert finished.result.parameters == finished.report.output.parameters < finished.result.dense_parameters


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_between_documents_and_common_signs_are_kept(tmp_path, corpora, kind):
    model = save_scene(tmp_path / "model", kind=kind)
    run(data_of(model, corpora, vocabulary={"extra_tokens": 0.5}), tmp_path / "out")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (model, tmp_path / "out" / "checkpoint"))
    for text in ("\n", "\n\n", " ", "x", "7", "?", "!", "<s>", "</s>", "<pad>"):
        names = [
            each.convert_ids_to_tokens(each(text, add_special_tokens=False)["input_ids"]) for each in (before, after)
        ]
        assert names[0] == names[1], text


def test_text_of_the_users_own_is_kept(model, corpora, tmp_path):
    text = "\u00bfQu\u00e9 pasar\u00e1 ma\u00f1ana con el jard\u00edn?"
    before = AutoTokenizer.from_pretrained(model)
    data = data_of(model, corpora, vocabulary={"extra_tokens": 0.02, "keep_texts": [text]})
    run(data, tmp_path / "kept")
    run(data_of(model, corpora), tmp_path / "lost")
    count = len(before(text)["input_ids"])
    sizes = [
        len(AutoTokenizer.from_pretrained(tmp_path / name / "checkpoint")(text)["input_ids"])
        for name in ("kept", "lost")
    ]
    assert sizes[0] == count < sizes[1]


def test_weights_are_pruned_as_well_where_that_is_asked_for(model, corpora, tmp_path):
    data = data_of(model, corpora, pruning={"method": "wanda", "sparsity": 0.5}, vocabulary={"rows": 500})
    report = run(data, tmp_path).report
    assert report.vocabulary.rows == 512
    assert report.sparsity.pruned_layers == pytest.approx(0.5, abs=0.01)
    assert_reloads(model, corpora, tmp_path, report)


@pytest.mark.parametrize("pruning", [None, {"method": "sparsegpt", "sparsity": 0.5}], ids=["alone", "with a mask"])
@pytest.mark.parametrize("shrink", AXES, ids="-".join)
def test_an_interrupted_job_resumes_with_the_same_bytes(model, corpora, tmp_path, pruning, shrink, monkeypatch):
    data = data_of(model, corpora, pruning=pruning, **shrink)
    data["evaluation"]["language_neurons"] = True
    whole = run(data, tmp_path / "whole")
    with pytest.raises(CancelledError):
        run(data, tmp_path / "twice", Stops())
    with monkeypatch.context() as patched:  # the corpus need not be read again
        patched.setattr(shrinking, "calibration_corpus", None)
        resumed = run(data, tmp_path / "twice")
    assert resumed.resumed_blocks >= 1
    assert resumed.report.to_bytes() == whole.report.to_bytes()
    plans = [(tmp_path / name / "plan.json").read_bytes() for name in ("whole", "twice")]
    assert plans[0] == plans[1]
    first, second = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name / "checkpoint").iterdir())}
        for name in ("whole", "twice")
    )
    assert first == second


@pytest.mark.parametrize(
    ("change", "field", "told"),
    [
        ({"vocabulary": {}}, "shrink.vocabulary.extra_tokens", "exactly one"),
        ({"vocabulary": {"extra_tokens": 0.1, "rows": 512}}, "shrink.vocabulary.extra_tokens", "exactly one"),
        ({"vocabulary": {"extra_tokens": 0.0}}, "shrink.vocabulary.extra_tokens", "greater than 0"),
        ({"vocabulary": {"extra_tokens": float("nan")}}, "shrink.vocabulary.extra_tokens", "finite"),
        ({"vocabulary": {"rows": 0}}, "shrink.vocabulary.rows", "greater than or equal to 1"),
        ({"vocabulary": {"rows": 903}}, "shrink.vocabulary.rows", "the model has 903 rows"),
        ({"vocabulary": {"rows": 897}}, "shrink.vocabulary.rows", "rounded up to a multiple of 64"),
        ({"vocabulary": {"rows": 512, "keep_texts": [""]}}, "shrink.vocabulary.keep_texts[0]", "at least 1"),
        (
            {"vocabulary": {"rows": 512, "weights": [{"language": "en", "weight": 2}]}},
            "shrink.vocabulary.weights[0]",
            "en is not kept",
        ),
        (
            {"vocabulary": {"rows": 512, "weights": [{"language": "uk", "weight": 0}]}},
            "shrink.vocabulary.weights[0].weight",
            "greater than or equal to 0.01",
        ),
        (
            {"vocabulary": {"rows": 512, "weights": [{"language": name, "weight": 2} for name in ("uk", "UK")]}},
            "shrink.vocabulary.weights",
            "one language",
        ),
        ({"feed_forward": {}}, "shrink.feed_forward.share", "exactly one"),
        ({"feed_forward": {"share": 0.5, "channels": 8}}, "shrink.feed_forward.share", "exactly one"),
        ({"feed_forward": {"share": 1.0}}, "shrink.feed_forward.share", "less than 1"),
        ({"feed_forward": {"channels": 96}}, "shrink.feed_forward.channels", "96 of 96"),
        ({"feed_forward": {"share": 0.01}}, "shrink.feed_forward.share", "rounded to a multiple of 32"),
        ({"feed_forward": {"channels": 8, "multiple_of": 8}}, "shrink.feed_forward.multiple_of", "leave one out"),
        ({"kv_heads": {"remove": 2}}, "shrink.kv_heads.remove", "every block has 2 key/value heads"),
        ({"kv_heads": {"remove": 0}}, "shrink.kv_heads.remove", "greater than or equal to 1"),
        ({"kv_heads": {}}, "shrink.kv_heads.remove", "is missing"),
        ({"blocks": {"remove": 3}}, "shrink.blocks.remove", "the model has 3 blocks"),
        ({"blocks": {"remove": 1}, "plan": "file:///nowhere"}, "shrink.blocks", "leave one out"),
        ({"plan": "file:///nowhere"}, "shrink.plan", "no such folder"),
        ({"keep_languages": ["en"]}, "shrink.keep_languages[0]", "no weight in the mix"),
        ({"keep_languages": ["uk", "UK"]}, "shrink.keep_languages", "one language"),
        ({"keep_languages": ["klingon!"]}, "shrink.keep_languages[0]", "BCP 47"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field(model, corpora, change, field, told):
    assert told in refusals(data_of(model, corpora, **change))[field]


def test_a_language_whose_tokens_are_dearer_takes_fewer_further_ones_among_as_many_rows(model, corpora, tmp_path):
    taken = {}
    for name, weights in (("alike", []), ("uk", [{"language": "uk", "weight": 4}])):
        data = data_of(
            model,
            corpora,
            mix=(("uk", 0.5), ("de", 0.5)),
            vocabulary={"rows": 448, "prior": "ranks", "weights": weights},
        )
        report = run(data, tmp_path / name).report
        taken[name] = {tag: found.expected_extra_tokens for tag, found in report.vocabulary.languages.items()}
        assert report.vocabulary.rows == 448
    assert taken["uk"]["uk"] < 0.6 * taken["alike"]["uk"]
    assert taken["uk"]["de"] > taken["alike"]["de"]


def test_a_specification_that_neither_prunes_nor_shrinks_is_refused(model, corpora):
    data = data_of(model, corpora)
    del data["shrink"]
    assert "pruning.sparsity" in refusals(data)
    assert "nothing is to be removed" in refusals({**data, "shrink": {}})["shrink.vocabulary"]


def test_a_pattern_has_to_divide_the_narrow_layers(model, corpora):
    narrow = {"feed_forward": {"channels": 50}}
    for pruning in (
        {"method": "wanda", "pattern": "2:4"},
        {"sparsity": 0.5, "overrides": [{"layers": "*down_proj*", "pattern": "2:4"}]},
    ):
        (told,) = refusals(data_of(model, corpora, pruning=pruning, **narrow)).values()
        assert "groups of 4 do not divide the 50 inputs of model.layers.0.mlp.down_proj.weight" in told
        assert re.search("; let shrink keep a multiple of 4, or choose an M of 2( or .*)?, or give a sparsity", told)
        assert admitted(data_of(model, corpora, pruning=pruning, feed_forward={"channels": 52}))


@pytest.mark.parametrize("architecture", ["opt", "llama"])
def test_windows_that_no_longer_fit_into_the_models_context_are_cut_with_a_warning(corpora, tmp_path, architecture):
    model = save_scene(tmp_path / "model", architecture=architecture, max_position_embeddings=64)
    observer = RecordingObserver()
    report = run(data_of(model, corpora, vocabulary={"rows": 448}), tmp_path / "out", observer).report
    warned = [fields for level, line, fields in observer.lines if level == "warning" and "maximum length" in line]
    (other,) = [entry for entry in report.evaluation if entry.language == "en"]
    assert other.pruned_bytes < other.bytes
    assert "en" in {fields["language"] for fields in warned}
    assert other.pruned_tokens <= report.evaluation[0].windows * 63


def edited(model, folder, name, change):
    """A copy of a model in which a JSON file was changed."""
    shutil.copytree(model, folder)
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    change(content)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_what_a_tokenizer_puts_around_no_text_may_name_tokens_that_it_lacks(model, corpora, tmp_path):
    def change(content):
        content["post_processor"]["special_tokens"]["<zz>"] = {"id": "<zz>", "ids": [9999], "tokens": ["<zz>"]}

    strange = edited(model, tmp_path / "model", "tokenizer.json", change)
    assert_reloads(strange, corpora, tmp_path / "out", run(data_of(strange, corpora), tmp_path / "out").report)


def test_an_id_of_two_tokens_is_refused(model, corpora, tmp_path):
    def change(content):
        vocabulary = content["model"]["vocab"]
        last, before = sorted(vocabulary, key=vocabulary.get)[-1:-3:-1]
        vocabulary[last] = vocabulary[before]

    strange = edited(model, tmp_path / "model", "tokenizer.json", change)
    assert "an id that another token has" in refusals(data_of(strange, corpora))["shrink.vocabulary"]


def test_a_chat_template_is_read_and_not_run(model, corpora, tmp_path):
    def change(content):
        content["chat_template"] = (
            "{% for a in range(99999) %}{% for b in range(99999) %}{{ '\u00a1Hola!' }}{% endfor %}{% endfor %}<unused0>"
        )

    endless = edited(model, tmp_path / "model", "tokenizer_config.json", change)
    run(data_of(endless, corpora), tmp_path / "out")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (endless, tmp_path / "out" / "checkpoint"))
    for text in ("\u00a1Hola!", "<unused0>"):
        assert len(after(text)["input_ids"]) == len(before(text)["input_ids"])
    assert after.convert_tokens_to_ids("<unused1>") == after.convert_tokens_to_ids("<no such token>")


def test_a_limit_that_no_row_meets_leaves_the_vocabulary_as_it_is(corpora, tmp_path):
    observer, model = RecordingObserver(), save_scene(tmp_path / "model", padding=0)
    report = run(data_of(model, corpora, vocabulary={"extra_tokens": 1e-12}), tmp_path / "out", observer).report
    assert report.vocabulary is None
    assert report.output.parameters == report.model.parameters
    assert any("stays as it is" in line for _, line, _ in observer.lines)


def test_the_card_names_the_languages_that_were_kept(model, corpora, tmp_path):
    run(data_of(model, corpora, mix=(("uk", 0.5), ("de", 0.5)), keep_languages=["de"]), tmp_path)
    card = (tmp_path / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert 'language: ["de"]' in card
    assert "made smaller for de (German)" in card
    assert "(chosen for de (German))" in card


def test_an_architecture_that_cannot_be_narrowed_is_refused_with_those_that_can(corpora, tmp_path):
    model = save_scene(tmp_path / "model", architecture="bloom")
    found = refusals(data_of(model, corpora, feed_forward={"share": 0.5}))
    assert "channels of bloom models cannot be removed; those of llama" in found["shrink.feed_forward"]


def test_a_tokenizer_of_another_kind_is_refused_at_submission(corpora, tmp_path):
    model = save_scene(tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    words = {token: number for token, number in content["model"]["vocab"].items() if len(token) == 1}
    content["model"] = {"type": "WordPiece", "vocab": {**words, "<unk>": 3}, "unk_token": "<unk>",
                        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}  # fmt: skip
    content["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert "WordPiece" in refusals(data_of(model, corpora))["shrink.vocabulary"]


def test_fewer_rows_than_have_to_stay_are_refused_at_submission_with_how_many_the_worker_counts(
    model, corpora, tmp_path
):
    told = refusals(data_of(model, corpora, vocabulary={"rows": 64}))["shrink.vocabulary.rows"]
    least = int(re.match(r"at least (\d+) of the 903 rows have to stay", told)[1])
    assert least % 64 == 0
    assert "shrink.vocabulary.rows" in refusals(data_of(model, corpora, vocabulary={"rows": least - 64}))
    kept = [line[:4096] for line in (corpora[0] / "de.txt").read_text().splitlines()[:200] if line]
    more = refusals(data_of(model, corpora, vocabulary={"rows": least, "keep_texts": kept}))["shrink.vocabulary.rows"]
    assert int(more.split()[2]) > least
    resolved = admitted(data_of(model, corpora, vocabulary={"rows": least})).resolved
    fewer = resolved.shrink.vocabulary.model_copy(update={"rows": 64})
    spec = resolved.model_copy(update={"shrink": resolved.shrink.model_copy(update={"vocabulary": fewer})})
    with pytest.raises(PermanentError, match=rf"shrink.vocabulary.rows: {least} of the 903 rows have to") as caught:
        run_resolved(spec, tmp_path)
    assert caught.value.reason == "ROWS_TOO_FEW"


@pytest.mark.parametrize("shrink", [{"vocabulary": {"rows": 512}}, WIDTH, HEADS, DEPTH], ids="-".join)
@pytest.mark.parametrize("tied", [True, False])
def test_a_dry_run_says_how_large_the_result_will_be(corpora, tmp_path, shrink, tied):
    model = save_scene(tmp_path / "model", tie_word_embeddings=tied)
    data = data_of(model, corpora, **shrink)
    estimate, report = admitted(data).estimate, run(data, tmp_path / "out").report
    assert (estimate.output_parameters, estimate.output_bytes) == (report.output.parameters, report.output.size_bytes)
    assert estimate.parameters == report.model.parameters


def test_a_dry_run_says_what_is_left_at_most_where_rows_are_not_counted_yet(model, corpora):
    estimate = admitted(data_of(model, corpora)).estimate
    assert estimate.output_parameters == estimate.parameters


@pytest.mark.parametrize("shrink", [WIDTH, HEADS, DEPTH], ids="-".join)
def test_blocks_make_up_for_what_earlier_ones_have_lost(model, corpora, tmp_path, shrink, monkeypatch):
    data = data_of(model, corpora, **shrink)
    data["calibration"]["samples"] = 64
    follows = run(data, tmp_path / "follows").report.blocks[-1].snr_db["uk"]
    monkeypatch.setattr(shrinking, "adds_to_states", lambda _checkpoint: False)
    alone = run(data, tmp_path / "alone").report.blocks[-1].snr_db["uk"]
    assert follows > alone + 0.2  # dB, of the hidden states of held-out text against the dense model's


def test_what_makes_up_for_a_block_pays_in_every_language_on_text_that_it_was_not_fitted_to(trained, corpora, tmp_path):
    mix = tuple((language, 1 / 4) for language in ("de", "en", "es", "uk"))
    data = data_of(trained, corpora, mix=mix, **DEPTH)
    data["calibration"] |= {"samples": 128, "sequence_length": 128}
    data["evaluation"] |= {"tokens_per_language": 1024}
    report = run(data, tmp_path / "out").report
    (removed,) = report.removed_blocks
    raw, tokenizer = loaded(trained)
    del raw.model.layers[removed.block]
    raw.config.num_hidden_layers -= 1
    for number, layer in enumerate(raw.model.layers):
        layer.self_attn.layer_idx = number
    samples = held_out(trained, *corpora, LANGUAGES, length=128, tokens=1024)
    for entry in report.evaluation:
        without, _, _ = bits_per_byte(raw, tokenizer, samples[entry.language])
        assert entry.pruned_bits_per_byte < without
