"""The validator of specifications against damaged ones, with the documented rules, written down again, as the judge."""

import copy
import math
import random
import re

import pytest

from attacks.mutants import mutant_of
from secateur_service.errors import InvalidSpecError
from secateur_service.spec import base, calibration, pruning
from secateur_service.spec import specification as spec

ROUNDS = 10_000
GOOD = {
    "model": {"uri": "file:///models/m"},
    "calibration": {
        "corpus": "file:///c",
        "languages": [{"language": "de", "weight": 0.7}, {"language": "uk"}, {"language": "zh-Hant", "weight": 0}],
        "samples": 8,
        "sequence_length": 64,
        "seed": 3,
        "policy": "weights",
    },
    "pruning": {"method": "wanda", "sparsity": 0.5},
    "evaluation": {"languages": ["de"], "tokens_per_language": 512},
    "execution": {"max_attempts": 3},
}
NUMBERS = [-1, 0, 1, 2, 3, 0.5, 1.0, 1.5, 2**31, 2**63, 2**70, 1e300, math.nan, math.inf, -math.inf]
TEXTS = ["", "x", "de", "2:4", "4:4", "0:4", "5:4", "2:4:8", "minimax", "temperature", "\0"]
VALUES = [*NUMBERS, *TEXTS, None, True, [], {}]
OTHER_NAMES = {"de": "DEU", "uk": "UK", "zh-Hant": "cmn-hant"}
NAMES = ["sparsity", "pattern", "temperature", "spread", "weight", "group", "policy", "samples", "surprise", "method"]


def damaged(rng):
    """A specification with up to four things changed, added or taken away."""
    data = copy.deepcopy(GOOD)
    for _ in range(rng.randint(0, 4)):
        part = data[rng.choice(list(data))]
        languages = data["calibration"].get("languages")
        if rng.random() < 0.3 and isinstance(languages, list) and languages:
            part = rng.choice(languages)
            if rng.random() < 0.3:
                languages.append(copy.deepcopy(rng.choice(languages)))
                name = languages[-1].get("language")
                if isinstance(name, str) and rng.random() < 0.5:
                    languages[-1]["language"] = OTHER_NAMES.get(name, name)
            if rng.random() < 0.2:
                weight = rng.choice([0, 1, math.nan])
                for entry in languages:
                    entry["weight"] = weight
                data["calibration"] |= rng.choice([{}, {"policy": "temperature", "temperature": rng.choice(NUMBERS)}])
                continue
        if rng.random() < 0.1:
            data["pruning"].pop("sparsity", None)
            data["pruning"]["pattern"] = rng.choice(TEXTS)
        name = rng.choice([*part, *NAMES])
        if rng.random() < 0.2:
            part.pop(name, None)
        else:
            part[name] = copy.deepcopy(rng.choice(VALUES))
    return data


def is_lawful(data):
    """Whether a specification that was accepted keeps the rules that docs/specification.md states."""
    mix, pruning = data["calibration"], data["pruning"]
    names = {other: name for name, other in OTHER_NAMES.items()}
    tags = [names.get(entry["language"], entry["language"]) for entry in mix["languages"]]
    weights = [entry.get("weight") for entry in mix["languages"]]
    given = [weight for weight in weights if weight is not None]
    samples, length, temperature = mix.get("samples", 128), mix.get("sequence_length"), mix.get("temperature")
    sparsity, pattern = pruning.get("sparsity"), pruning.get("pattern")
    kept = re.fullmatch("([0-9]+):([0-9]+)", pattern) if pattern else None
    return (
        len(set(tags)) == len(tags)
        and all(math.isfinite(weight) and 0 <= weight <= 1e12 for weight in given)
        and (len(given) < len(tags) or sum(given) > 0)
        and len(tags) <= samples <= 10**6
        and (length is None or 2 <= length <= 2**20)
        and 0 <= mix.get("seed", 0) < 2**63
        and (temperature is None or (mix["policy"] == "temperature" and 1 <= temperature < math.inf))
        and (sparsity is None) != (pattern is None)
        and (sparsity is None or 0 < sparsity < 1)
        and (pattern is None or 0 < int(kept[1]) < int(kept[2]))
        and (pruning.get("spread") is None or pruning["method"] == "wanda_multilingual")
        and not any("surprise" in part for part in (*data.values(), *mix["languages"]))
    )


def breaks_a_promise(module, data):
    """Whether the validator accepts what it must not, or fails in another way than by the one error."""
    try:
        found = module.parse_spec(data)
    except InvalidSpecError as error:
        return not all(violation.field and violation.description for violation in error.violations)
    except Exception:  # noqa: BLE001 - whatever it is
        return True
    try:
        weights = found.calibration.mix
        return not is_lawful(data) or not math.isclose(sum(weights.values()), 1)
    except (TypeError, ValueError, KeyError, ArithmeticError, AssertionError):
        return True


MUTANTS = {
    "everything may be pruned": ("Field(gt=0, lt=1)]", "Field(gt=0, le=1)]"),
    "nothing may be pruned": ("Field(gt=0, lt=1)]", "Field(ge=0, lt=1)]"),
    "numbers may be no numbers": ("allow_inf_nan=False", "allow_inf_nan=True"),
    "unknown fields are let in": ('extra="forbid"', 'extra="ignore"'),
    "languages may be repeated": ("for twice in named_twice(tags):", "for twice in ():"),
    "languages may be repeated by another name": ("return parse_language(tag)", "return parse_language(tag) and tag"),
    "weights may all be zero": ("if len(given) == len(tags) and not any(given):", "if False:"),
    "languages may go without text": ("if self.samples < len(tags):", "if False:"),
    "a temperature may stand anywhere": ("self.temperature is not None and self.policy", "False and self.policy"),
    "patterns may keep everything": ("0 < int(match[1]) < int(match[2])", "0 < int(match[1]) <= int(match[2])"),
    "patterns may keep nothing": ("0 < int(match[1]) < int(match[2])", "int(match[1]) < int(match[2])"),
    "both targets": ("if self.sparsity is not None and self.pattern is not None:", "if False:"),
    "no target": ("elif self.sparsity is None and self.pattern is None:", "elif False:"),
    "a spread may stand anywhere": ('self.spread is not None and "spread"', 'False and "spread"'),
}


def first_break(module):
    rng = random.Random(11)
    return next((number for number in range(ROUNDS) if breaks_a_promise(module, damaged(rng))), None)


def test_no_damaged_specification_makes_the_validator_break_a_promise():
    assert first_break(spec) is None


def test_lawful_ones_are_among_them():
    rng, accepted = random.Random(11), 0
    for _ in range(500):
        try:
            spec.parse_spec(damaged(rng))
        except InvalidSpecError:
            continue
        accepted += 1
    assert 100 < accepted < 400


@pytest.mark.parametrize("name", MUTANTS)
def test_a_validator_without_one_of_its_checks_is_found_out(name):
    assert first_break(mutant_of([base, calibration, pruning, spec], *MUTANTS[name])) is not None
