"""`secateur-service run` on text that the model writes itself, and on text in the model's chat template."""

import json

import pytest

from support.forking import run_command
from support.models import save_corpora, save_model, spec_data

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}{{ eos_token }}{% endfor %}"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    model = save_model(folder / "model", max_position_embeddings=64)  # as long as a sequence of the job
    (model / "chat_template.jinja").write_text(TEMPLATE)
    calibration, evaluation = save_corpora(folder)
    lines = (calibration / "uk.txt").read_text(encoding="utf-8").splitlines()
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "Так."}] for text in lines]
    (folder / "talks").mkdir()
    for name in ("de", "uk"):
        entries = [json.dumps({"messages": talk}, ensure_ascii=False) for talk in talks]
        (folder / "talks" / f"{name}.jsonl").write_text("\n".join(entries), encoding="utf-8")
    return model, calibration, evaluation


def run(tmp_path, data):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(data))
    arguments = ["run", str(path), "--output", str(tmp_path / "out"), "--device", "cpu", "--threads", "1", "--json"]
    return run_command(arguments, tmp_path)


def test_a_job_on_text_that_the_model_wrote_says_how_much_of_it_was_left_out(inputs, tmp_path):
    data = spec_data(*inputs)
    data["calibration"]["generation"] = {"prefix_tokens": 16}
    finished = run(tmp_path, data)
    assert finished.returncode == 0, finished.stderr
    assert "writing calibration text language=de" in finished.stderr
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["spec"]["calibration"]["generation"]["new_tokens"] == 64 - 16
    texts = {entry["language"]: entry for entry in report["calibration"]}
    assert sorted(texts) == ["de", "uk"]
    for entry in texts.values():
        assert entry["dropped_texts"] == 3  # a fifth of one batch of sixteen
        assert entry["tokens"] == 3 * 64
        assert entry["identified"]["documents"] == 16 - 3
    assert {entry["language"]: entry["identified"]["share"] > 0.9 for entry in report["evaluation"]} == {
        "de": True,
        "uk": True,
        "en": True,
    }
    assert report["context"]["lengths"] == [64, 32]
    for entry in report["evaluation"]:
        along = report["context"]["languages"][entry["language"]]
        assert along["perplexity"][0] == pytest.approx(entry["dense_perplexity"])
        assert along["perplexity"][1] == along["first_half"]
        assert len(entry["digest"]) == 64
    assert report["job"]["device"].startswith("CPU (")
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    started = json.loads((tmp_path / "out" / "provenance.json").read_text())["started"]
    assert f"<dt>Run</dt><dd><bdi>{started[:16].replace('T', ' ')} UTC, in " in page
    assert "The dense model wrote this text itself" in page
    assert "were left out (6 in all)" in page


def test_a_job_on_conversations_ends_with_a_report_that_tells_of_text_in_another_language(inputs, tmp_path):
    model, _, evaluation = inputs
    data = spec_data(model, model.with_name("talks"), evaluation)
    data["calibration"] |= {"chat_template": True, "text_field": "messages"}
    data["evaluation"] |= {"text_field": "text"}
    finished = run(tmp_path, data)
    assert finished.returncode == 0, finished.stderr
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["spec"]["evaluation"]["chat_template"] is True
    assert {entry["dropped_texts"] for entry in report["calibration"]} == {None}
    shares = {entry["language"]: entry["identified"]["share"] for entry in report["calibration"]}
    assert shares["uk"] > 0.9
    assert shares["de"] < 0.1
    assert min(entry["identified"]["share"] for entry in report["evaluation"]) > 0.9
    found = [(verdict["kind"], verdict["language"]) for verdict in report["verdicts"]]
    assert ("OTHER_LANGUAGE", "de") in found
    assert ("OTHER_LANGUAGE", "uk") not in found
    assert (
        "documents 100% read like uk (Ukrainian), 0% like de"
        in (tmp_path / "out" / "report" / "report.html").read_text()
    )


def test_conversations_without_a_template_are_refused_with_file_and_line(inputs, tmp_path):
    model, _, evaluation = inputs
    data = spec_data(model, model.with_name("talks"), evaluation)
    data["calibration"] |= {"text_field": "messages"}
    data["evaluation"] |= {"text_field": "text"}
    finished = run(tmp_path, data)
    assert finished.returncode == 10
    assert "calibration.languages[0].language: 'de': " in finished.stderr
    assert "de.jsonl, line 1: it is a conversation, not text; set chat_template" in finished.stderr
