"""What a language is worth: a model made smaller for one language, for all, and for the wrong one.

    python benchmarks/shrinking.py --model DIR --calibration DIR --evaluation DIR [--rows 1024] [--channels 352]
    python benchmarks/shrinking.py --small

Runs jobs that make the model smaller, as the options say: for every language alone and for all languages, or for the
sets that --keep gives. With --budget, the service chooses the amounts. With --english, single languages are also
calibrated on English text, to show what the language of the text is worth; the vocabulary stays that of the language,
and blocks go by the loss of the language. With --oracle, the tokens of the evaluation text are counted too, which no
user can do: this tells what better counts could bring at most. With --sparsity, the same sets are also pruned to zeros
by the default method, for comparison. With --epochs, blocks are trained in all of these.

Prints effective parameters, that is those that are not zero, and growth of bits per byte on text that was not used for
calibration. Written to shrinking-MODEL.json as results arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from small import LENGTH, options_with_text

import secateur
from secateur_service.library import prune


def shrink(
    options: argparse.Namespace, keep: list[str], calibration: list[str], *, zeros: bool = False
) -> dict[str, Any]:
    """Figures of one job.

    Args:
        options: of the command line.
        keep: languages whose tokens are kept.
        calibration: languages by whose text the channels are chosen.
        zeros: whether weights are set to zero instead.
    """
    mix = dict.fromkeys([*calibration, *keep], 0.0) | dict.fromkeys(calibration, 1.0)
    # A language that is kept needs some weight: one that is too small to matter.
    mix |= {language: 1e-9 for language in keep if not mix[language]}
    rows = {"vocabulary_rows": options.rows} if options.rows else {"extra_tokens": options.extra_tokens}
    pairs = [pair.split("=") for pair in options.weights.split(",")] if options.weights else []
    weights = {"vocabulary_weights": {name: float(weight) for name, weight in pairs}} if pairs else {}
    smaller: dict[str, Any] = {
        "keep_languages": keep,
        "feed_forward_channels": options.channels,
        "remove_kv_heads": options.remove_kv_heads,
        "remove_blocks": options.remove_blocks,
        **({**rows, "vocabulary_prior": options.prior, **weights} if not options.whole_vocabulary else {}),
    }
    if options.budget:
        smaller = {"keep_languages": keep, "shrink_to": options.budget, "vocabulary_prior": options.prior}
    trained = {"reconstruction_epochs": options.epochs, "reconstruction_norms": options.norms} if options.epochs else {}
    spec = secateur.prune_spec(
        options.model.resolve().as_uri(),
        corpus=options.calibration.resolve().as_uri(),
        languages=mix,
        samples=options.sequences * len(mix),
        sequence_length=options.length,
        document_separator=options.separator,
        evaluation_corpus=options.evaluation.resolve().as_uri(),
        evaluation_languages=keep,
        tokens_per_language=options.tokens,
        continuations=0,
        **({"sparsity": options.sparsity} if zeros else smaller),
        **trained,
    )
    with tempfile.TemporaryDirectory() as folder:
        report = prune(spec, Path(folder), device=options.device, threads=torch.get_num_threads()).report
        plan = "" if zeros else (Path(folder) / "plan.json").read_text()
    return {
        "rows": report.vocabulary.rows if report.vocabulary else None,
        **({"weights": options.weights} if options.weights else {}),
        "parameters": report.output.parameters - report.sparsity.zeros,
        "parameters_before": report.model.parameters,
        "growth": {
            entry.language: entry.pruned_bits_per_byte / entry.dense_bits_per_byte - 1 for entry in report.evaluation
        },
        "removed_blocks": [entry.block for entry in report.removed_blocks],
        **({"budget": json.loads(plan)["budget"]} if options.budget and not zeros else {}),
        "tokens": {entry.language: entry.tokens for entry in report.evaluation},
    }


def with_evaluation(options: argparse.Namespace, folder: Path) -> Path:
    """The calibration text with the evaluation text, in documents of two lines: single ones would not be counted."""
    for path in options.calibration.glob("*.txt"):
        lines = (options.evaluation / path.name).read_text().splitlines()
        pairs = [" ".join(lines[at : at + 2]) for at in range(0, len(lines), 2)]
        (folder / path.name).write_text(path.read_text() + "\n".join(pairs) + "\n")
    return folder


def main() -> None:
    """Measure for every set of languages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", nargs="+", default=["ar", "de", "en", "fr", "rw", "uk", "zh"])
    parser.add_argument("--keep", nargs="+", action="append", help="languages to keep together; may be repeated")
    parser.add_argument("--extra-tokens", type=float, default=0.005, help="default %(default)s")
    parser.add_argument("--rows", type=int, help="rows of the vocabulary to keep, instead")
    parser.add_argument(
        "--prior", choices=("model", "ranks", "words"), default="model", help="of the vocabulary; default model"
    )
    parser.add_argument("--weights", help="how dear a further token is in a language, e.g. en=2,uk=1; default 1 each")
    parser.add_argument("--whole-vocabulary", action="store_true", help="keep all rows")
    parser.add_argument("--channels", type=int, help="feed-forward channels to keep; default all")
    parser.add_argument("--oracle", action="store_true", help="also count the tokens of the evaluation text")
    parser.add_argument("--english", action="store_true", help="also calibrate single languages on English")
    parser.add_argument("--sparsity", type=float, help="compare with so many zeros in the pruned layers")
    parser.add_argument("--budget", type=float, help="share of parameters; the amounts follow from it instead")
    parser.add_argument("--epochs", type=int, help="train blocks for so many epochs; default not at all")
    parser.add_argument("--norms", action="store_true", help="train norms too")
    parser.add_argument("--device", help="cpu or cuda; by default cuda if there is one")
    parser.add_argument("--remove-kv-heads", type=int, help="key/value heads to remove from every block")
    parser.add_argument("--remove-blocks", type=int, help="blocks to remove")
    parser.add_argument("--sequences", type=int, default=64, help="calibration sequences per language")
    parser.add_argument("--length", type=int, default=512, help="tokens per sequence")
    parser.add_argument("--tokens", type=int, default=16384, help="evaluation tokens per language")
    small = {"languages": ["de", "en"], "sequences": 2, "tokens": 2 * LENGTH, "length": LENGTH, "channels": 48}
    small |= {"remove_blocks": 1, "sparsity": 0.5, "english": True, "oracle": True}
    with contextlib.ExitStack() as scratch, options_with_text(parser, words=600, **small) as options:
        path = options.output / f"shrinking-{options.model.resolve().name}.json"
        if options.oracle:
            options.calibration = with_evaluation(options, Path(scratch.enter_context(tempfile.TemporaryDirectory())))
        content = json.loads(path.read_text()) if path.exists() else {}
        sets = options.keep or [*([language] for language in options.languages), options.languages]
        jobs = [(keep, keep, False) for keep in sets]
        if options.english:
            jobs += [(keep, ["en"], False) for keep in sets if len(keep) == 1 and keep != ["en"]]
        if options.sparsity:
            jobs += [(keep, keep, True) for keep in sets]
        for keep, calibration, zeros in jobs:
            name = " ".join(keep) + ("" if keep == calibration else f", calibrated on {' '.join(calibration)}")
            name += f", {options.sparsity:.0%} zeros" if zeros else ""
            name += f", budget {options.budget:g}" if options.budget and not zeros else ""
            name += f", prior {options.prior}" if options.prior != "model" else ""
            name += f", weights {options.weights}" if options.weights else ""
            name += ", trained" if options.epochs else ""
            name += ", oracle" if options.oracle else ""
            content[name] = shrink(options, keep, calibration, zeros=zeros)
            path.write_text(json.dumps(content, indent=1) + "\n")
            show({name: content[name]})
        print(f"written: {path}")


def show(content: dict[str, Any]) -> None:
    """Print a line for each job."""
    for name, found in content.items():
        share = 1 - found["parameters"] / found["parameters_before"]
        growth = ", ".join(f"{language} {value:+.2%}" for language, value in found["growth"].items())
        rows = "all" if found["rows"] is None else f"{found['rows']:,}"
        gone = f", without blocks {found['removed_blocks']}" if found["removed_blocks"] else ""
        print(
            f"{name:<34} {rows:>8} rows{gone}, {share:6.1%} fewer effective parameters; bits per byte: {growth}",
            flush=True,
        )


if __name__ == "__main__":
    main()
