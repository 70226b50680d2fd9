import re

import pytest
from ruamel.yaml import YAML

from secateur_service.evaluation.card import base_model, read_license, render_card
from support.reports import make_report


def front_matter(card):
    return YAML(typ="safe", pure=True).load(re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL)[1])


def test_the_front_matter_is_what_model_hubs_read():
    assert front_matter(render_card(make_report(uri="hf://org/name"), license_id="apache-2.0")) == {
        "base_model": "org/name",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["de", "en", "uk"],
        "tags": ["secateur", "pruned", "sparse", "wanda"],
    }


def test_a_license_that_is_not_known_is_not_claimed():
    card = render_card(make_report())
    assert "license" not in front_matter(card)
    assert b"does not name its license" in card


@pytest.mark.parametrize("hostile", ["x\n---\nlicense: mit", 'x"\nlicense: mit', "no", "x: {y}"])
def test_a_hostile_name_stays_a_name(hostile):
    read = front_matter(render_card(make_report(uri=f"file:///models/{hostile}")))
    assert read["base_model"] == hostile
    assert "license" not in read


def test_a_hostile_name_is_no_markup_in_the_text():
    body = render_card(make_report(uri="file:///models/<script>x|y[z](u)")).decode().split("---", 2)[2]
    assert "<script>" not in body
    assert "x\\|y\\[z\\](u)" in body


def test_the_language_no_is_not_a_truth_value():
    assert front_matter(render_card(make_report(mix={"no": 1.0})))["language"] == ["no"]


def test_the_card_gives_the_figures_of_every_language_and_says_what_zeros_are_not_worth():
    card = render_card(make_report()).decode()
    assert "| es | no | 8.00 | 12.00 | ×1.50 | 1.500 | 1.792 |" in card
    assert "| de | yes |" in card
    assert "Zeros alone make a model neither smaller nor faster to serve." in card
    assert "es is left behind" in card


def test_the_base_model_is_named_as_hubs_name_it():
    assert base_model("hf://org/name") == "org/name"
    assert base_model("file:///models/polyglot-llama") == "polyglot-llama"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: cc-by-4.0\nlanguage: no\n---\n# x", "cc-by-4.0"),
        ("---\nlanguage: de\n---\n", None),
        ("# no front matter", None),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("---\n{ broken\n---\n", None),
        ("---\nlicense: !!python/object/apply:os.system ['true']\n---\n", None),
    ],
)
def test_the_license_is_read_from_the_base_models_card(tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert read_license(tmp_path) == expected


def test_a_model_without_a_card_has_no_known_license(tmp_path):
    assert read_license(tmp_path) is None
