import re

import pytest
import ruamel.yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from secateur_service.evaluation.card import base_model, languages_of, render_card
from secateur_service.evaluation.parts import JobPart, TaskPart
from secateur_service.models.license import IDENTIFIERS, License
from support.reports import make_report

# The fields that https://github.com/huggingface/hub-docs/blob/main/modelcard.md documents and we write. The hub's own
# check (ModelCard.validate) is a request to it and cannot be made here.
DOCUMENTED = {
    "base_model",
    "language",
    "language_bcp47",
    "library_name",
    "license",
    "license_link",
    "license_name",
    "pipeline_tag",
    "tags",
}


def front_matter(card):
    return ruamel.yaml.YAML(typ="safe", pure=True).load(re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL)[1])


def on_the_hub(card):
    """The front matter as huggingface_hub reads it, after its validators and the documented schema."""
    data = ModelCard(card.decode(), ignore_metadata_errors=False).data.to_dict()
    assert data == front_matter(card)
    assert data.keys() <= DOCUMENTED
    assert all(re.fullmatch("[a-z]{2,3}", code) for code in data.get("language", []))
    if "base_model" in data:
        validate_repo_id(data["base_model"])
    assert data.get("license") in {None, *IDENTIFIERS}
    assert ("license_name" in data) <= (data.get("license") == "other")
    link = data.get("license_link", "LICENSE")
    assert link in ("LICENSE", "LICENSE.md") or re.match("https?://", link)
    return data


def test_the_front_matter_is_what_model_hubs_read():
    card = render_card(make_report(uri="hf://org/name"), License("apache-2.0"))
    assert on_the_hub(card) == {
        "base_model": "org/name",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["de", "en", "uk"],
        "tags": ["secateur", "pruned", "sparse", "wanda"],
    }


def test_a_license_that_a_hub_does_not_know_is_carried_with_its_name_and_link():
    card = render_card(make_report(), License("other", "garden-license-1.0", "https://garden.example/license"))
    read = on_the_hub(card)
    assert (read["license"], read["license_name"]) == ("other", "garden-license-1.0")
    assert read["license_link"] == "https://garden.example/license"
    assert b"names its license as garden-license-1.0" in card


def test_a_license_that_is_not_known_is_not_claimed():
    card = render_card(make_report())
    assert "license" not in on_the_hub(card)
    assert b"does not name its license" in card


@pytest.mark.parametrize(
    "uri",
    [
        "file:///models/garden-llama",
        "file:///models/My%20Model%20(v2)",
        "s3://bucket/org/name",
        "file:///models/x\n---\nlicense: mit",
        'file:///models/x"\nlicense: mit',
        "file:///models/no",
        "hf://org/name/more",
        "hf://datasets/org/name",
        "hf://org/name--x",
        "hf://org/name.git",
        "hf://org/ends-",
    ],
)
def test_a_model_that_is_no_repository_of_a_hub_is_no_base_model_but_is_named_in_the_text(uri):
    card = render_card(make_report(uri=uri))
    read = on_the_hub(card)
    assert "base_model" not in read
    assert "license" not in read
    assert b"| base model |" in card


NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True)


@given(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.sampled_from(["", "@main", "@v1.0"]))
def test_a_base_model_is_an_id_that_the_hub_takes(name, revision):
    found = base_model(f"hf://{name}{revision}")
    if found is not None:
        validate_repo_id(found)
        assert found == name
    elif re.fullmatch(r"[A-Za-z0-9][^/]*/[A-Za-z0-9][^/]*", name) and not name.endswith(".ipynb"):
        with pytest.raises(HFValidationError):  # nothing that is an id of a model is lost
            validate_repo_id(name)


TAGS = {
    "de": (["de"], []),
    "deu": (["de"], ["deu"]),
    "pt-BR": (["pt"], ["pt-BR"]),
    "zh-Hant": (["zh"], ["zh-Hant"]),
    "yue": (["yue"], []),
    "sr-Latn-RS": (["sr"], ["sr-Latn-RS"]),
    "es-419": (["es"], ["es-419"]),
    "ca-valencia": (["ca"], ["ca-valencia"]),
    "ceb": (["ceb"], []),
    "und": ([], ["und"]),
    "mul-Latn": ([], ["mul-Latn"]),
    "qaa": ([], ["qaa"]),
    "x-garden": ([], ["x-garden"]),
    "no": (["no"], []),
}


@pytest.mark.parametrize("tag", TAGS)
def test_languages_are_codes_of_iso_639_and_what_says_more_is_beside_them(tag):
    assert languages_of([tag]) == TAGS[tag]


@given(st.lists(st.sampled_from(sorted(TAGS)), min_size=1, max_size=6, unique=True))
def test_the_front_matter_is_valid_whatever_the_mix(tags):
    read = on_the_hub(render_card(make_report(mix=dict.fromkeys(tags, 1 / len(tags)))))
    assert len(set(read.get("language", []))) == len(read.get("language", []))
    assert read.get("language") or read.get("language_bcp47")


def test_a_hostile_name_is_no_markup_in_the_text():
    body = render_card(make_report(uri="file:///models/<script>x|y[z](u)")).decode().split("---", 2)[2]
    assert "<script>" not in body
    assert "x\\|y\\[z\\](u)" in body


def test_the_card_gives_the_figures_of_every_language_and_says_what_zeros_are_not_worth():
    card = render_card(make_report()).decode()
    assert "| es (Spanish) | no | 8.00 | 12.00 | ×1.50 | heavy | 1.500 | 1.792 |" in card
    assert "\nThe perplexity of the 3 languages of the mix grew ×1.05 on average" in card
    assert "\nAlso measured, and not in the mix: es (Spanish) ×1.50 (a heavy loss)." in card
    assert "tasks that take knowledge can fall" in card
    assert "| de (German) | yes |" in card
    assert "# garden-llama, pruned for de (German) 50%, " in card
    assert "Zeros alone make a model neither smaller nor faster to serve** in today's general servers." in card
    assert "es (Spanish) is left behind" in card


def test_the_card_has_a_line_on_tasks_whose_answers_are_right_or_wrong():
    known = {"language": None, "samples": 10, "dense_stderr": None, "pruned_stderr": None, "difference_stderr": None}
    tasks = [
        TaskPart(task="a", metric="acc", dense=0.5, pruned=0.25, difference=-0.25, flips=0.25, **known),
        TaskPart(task="a", metric="acc_norm", dense=0.9, pruned=0.9, difference=0.0, flips=0.0, **known),
        TaskPart(task="b", metric="acc", dense=0.3, pruned=0.25, difference=-0.05, flips=0.05, **known),
        TaskPart(task="c", metric="perplexity", dense=9.0, pruned=10.0, difference=1.0, flips=None, **known),
    ]
    line = "On 2 tasks of lm-evaluation-harness, 40.0% of the answers were right before and 25.0% are now"
    assert line in render_card(make_report(tasks=tasks)).decode()
    assert "lm-evaluation-harness" not in render_card(make_report()).decode()


def test_the_card_says_how_it_was_made_and_is_the_same_for_every_attempt():
    spec = make_report().spec | {"reconstruction": {"epochs": 4, "norms": True}}
    card = render_card(make_report(spec=spec, job=JobPart(id="1", secateur_version="1", device="a GPU"))).decode()
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", card, re.MULTILINE))
    assert rows["update"] == "none: the weights that are kept stay as they were"
    assert rows["training"] == "4 epochs of each block: weights and norms"
    assert rows["windows"] == "128 tokens, which do not overlap"
    assert rows["computed on"] == "a GPU"
    assert "run" not in rows
