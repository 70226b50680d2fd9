"""The command `secateur`, as a process of its own, against a real service process."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from secateur_service.calibration.presets import presets
from secateur_service.evaluation.html import render_html
from secateur_service.evaluation.parts import Verdict
from secateur_service.jobs.job import EventKind, Failure
from secateur_service.records.needs import Needs
from support.forking import run_client
from support.models import save_corpora, save_model, spec_data
from support.reports import answered, make_report
from support.service import AGENT, FILES, REPORT, Service
from support.waiting import HANG_SECONDS, until

COMMAND = [sys.executable, "-m", "secateur"]
SPEC = """
model: {uri: file:///elsewhere/model}
calibration: {corpus: file:///elsewhere/text, languages: {de: 0.7, no: 0.3}}
pruning: {method: wanda, sparsity: 1.5}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("service"))
    yield service
    service.close()


@pytest.fixture
def environment(service, tmp_path):
    return {**os.environ, "SECATEUR_ENDPOINT": service.endpoint, "HOME": str(tmp_path), "COLUMNS": "100"}


@pytest.fixture
def secateur(environment, tmp_path):
    """The command, forked off a process that has loaded it."""

    def run(*arguments, **variables):
        return run_client(arguments, tmp_path, environment={**environment, **variables})

    return run


def finished(service):
    job_id = service.running_job()
    service.log(job_id, "hello \x1b[31mred\nnext line")
    service.store.append(
        job_id,
        1,
        [
            (EventKind.STAGE, {"stage": "PRUNING"}),
            (EventKind.PROGRESS, {"blocks_done": 1, "blocks_total": 2, "fraction": 0.5, "eta_seconds": 61.0}),
        ],
    )
    service.publish(job_id, FILES)
    return job_id


def test_a_job_that_fits_no_agent_says_so_and_no_longer_when_one_comes(secateur, service):
    job_id = service.queued_job(needs=Needs(host_bytes=80 * 10**9))
    reason = "needs at least 80.0 GB of memory; the largest agent seen in ten minutes has 10.0 GB"
    until(lambda: service.store.get(job_id).waiting)
    assert re.search(f"^waits +{reason}$", secateur("get", job_id).stdout, re.MULTILINE)
    assert json.loads(secateur("get", job_id, "-o", "json").stdout)["waiting"] == reason
    assert f"[warning] waits: {reason}" in secateur("logs", job_id).stdout
    titles, row = secateur("list", "--limit", "1", COLUMNS="200").stdout.splitlines()
    assert titles.split()[-1] == "WAITS"
    assert row.endswith(reason)
    large = replace(AGENT, id="large:1", capacity=replace(AGENT.capacity, host_bytes=80 * 10**9))
    service.store.agents.announce(large)
    until(lambda: not service.store.get(job_id).waiting)
    assert "has been seen" in secateur("logs", job_id).stdout
    service.store.request_cancel(job_id)


def failed(service):
    job_id = service.running_job()
    service.store.release(job_id, 1, Failure("NON_FINITE", "a NaN in layer 3", retryable=False))
    return job_id


def cancelled(service):
    job_id = service.queued_job()
    service.store.request_cancel(job_id)
    return job_id


@pytest.mark.parametrize(
    "command",
    ["", *"submit watch logs list get report compare sweep gate cancel delete download info".split()],  # noqa: SIM905
)
def test_help_has_the_exit_codes_and_the_common_options(environment, command):
    command = [*COMMAND, *filter(None, [command]), "--help"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=HANG_SECONDS)
    text = " ".join(done.stdout.split())
    assert "130 interrupted" in text
    assert "--endpoint" in text
    assert "--output" in text


def test_the_documented_exit_codes_are_those_of_the_program():
    import secateur.cli
    from secateur.cli._exit import ExitCode

    documented = {int(number) for number in re.findall(r"^    (\d+) ", secateur.cli.__doc__, re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode} - {ExitCode.OUTPUT_LOST}


def test_a_specification_that_breaks_rules_is_refused_field_by_field_without_a_traceback(secateur, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    done = secateur("submit", str(path))
    assert done.returncode == 3
    assert "pruning.sparsity: " in done.stderr
    assert "strictly between 0 and 1" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_misspelt_field_is_refused_before_anything_is_sent(secateur, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("sparsity", "sparsty"))
    done = secateur("submit", str(path), SECATEUR_ENDPOINT="127.0.0.1:1")
    assert done.returncode == 3
    assert "pruning.sparsty: no such field, did you mean sparsity?" in done.stderr


def test_flags_win_over_the_file_and_errors_are_json_where_asked_for(secateur, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    done = secateur("submit", str(path), "--pattern", "3:2", "-l", "xx-yy=1", "--output", "json")
    assert done.returncode == 3
    error = json.loads(done.stderr)["error"]
    assert error["reason"] == "INVALID_SPEC"
    fields = {violation["field"] for violation in error["violations"]}
    assert {"pruning.pattern", "calibration.languages[0].language"} <= fields
    assert "pruning.sparsity" not in fields


def test_the_policies_of_a_job_can_be_given_by_flags(secateur, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    flags = ["--policy", "fair", "--temperature", "0.5", "--order", "sideways", "--group", "column", "--spread", "-1"]
    flags += ["--allocation", "best", "--span", "0.5", "--outlier", "0", "--no-layer-snr", "--sparsity", "0.5"]
    flags += ["--override", "*.q_proj.weight=1.5", "--override", "*.k_proj.weight=4:2", "--override", "a=b=dense"]
    flags += ["--vocabulary-rows", "640", "--vocabulary-weight", "de=1000"]
    done = secateur("submit", str(path), *flags, "--output", "json")
    assert done.returncode == 3
    fields = {violation["field"] for violation in json.loads(done.stderr)["error"]["violations"]}
    assert {field.removeprefix("spec.") for field in fields if "uri" not in field and "corpus" not in field} == {
        "calibration.policy",
        "calibration.temperature",
        "pruning.order",
        "pruning.group",
        "pruning.spread",
        "pruning.allocation.policy",
        "pruning.allocation.span",
        "pruning.allocation.outlier",
        "pruning.overrides[0].sparsity",
        "pruning.overrides[1].pattern",
        "shrink.vocabulary.weights.de",
    }


def test_flags_let_the_model_write_the_text_or_put_it_into_its_template_but_not_both(secateur, service):
    model = save_model(service.file_root / "model", vocab_size=258)
    corpora = save_corpora(service.file_root)
    flags = ["--model", model.as_uri(), "--corpus", corpora[0].as_uri(), "-l", "de", "--sparsity", "0.5"]
    flags += [
        "--samples",
        "4",
        "--sequence-length",
        "96",
        "--tokens-per-language",
        "192",
        "--dry-run",
        "--output",
        "json",
    ]
    written = secateur("submit", *flags, "--self-generated")
    assert written.returncode == 0, written.stderr
    calibration = json.loads(written.stdout)["resolved_spec"]["calibration"]
    assert (calibration["generation"]["prefix_tokens"], calibration["generation"]["new_tokens"]) == (24, 72)
    assert calibration["chat_template"] is False
    talks = json.loads(secateur("submit", *flags, "--chat-template").stdout)["resolved_spec"]
    assert talks["calibration"]["chat_template"] is talks["evaluation"]["chat_template"] is True
    assert "generation" not in talks["calibration"]
    both = secateur("submit", *flags, "--self-generated", "--chat-template")
    assert both.returncode == 3
    [violation] = json.loads(both.stderr)["error"]["violations"]
    assert violation["field"].endswith("calibration.generation")
    assert "does not go with chat_template" in violation["description"]
    flags += ["-l", "uk=0"]
    planned = json.loads(secateur("submit", *flags).stdout)["estimate"]["warnings"]
    assert any("uk" in warning for warning in planned)
    submitted = json.loads(secateur("submit", *(flag for flag in flags if flag != "--dry-run")).stdout)
    assert submitted["warnings"] == planned
    assert json.loads(secateur("get", submitted["name"], "--output", "json").stdout)["estimate"]["warnings"] == planned
    for end in (["cancel"], ["delete", "--yes"]):
        assert secateur(*end, submitted["name"]).returncode == 0


def test_the_corpora_of_the_service_are_listed_in_short_and_one_of_them_with_all_its_languages(secateur):
    shown = secateur("info").stdout
    for name, preset in presets().items():
        assert re.search(rf"corpus {re.escape(name)} .*{len(preset.configurations)} languages: ", shown)
    assert " yo," not in shown
    assert shown.count(", ...") == len(presets())
    mc4 = secateur("info", "--corpus", "mc4")
    assert mc4.returncode == 0
    assert re.findall(r"([\w-]+) \(", mc4.stdout.splitlines()[-1]) == list(presets()["mc4"].configurations)
    assert "uk (Ukrainian)" in mc4.stdout
    assert "hf://datasets/allenai/c4" in mc4.stdout
    assert re.search(r"gated +no", mc4.stdout)
    assert re.search(r"gated +yes", secateur("info", "--corpus", "culturax").stdout)
    found = json.loads(secateur("info", "--corpus", "wikipedia", "-o", "json").stdout)
    assert found["languages"] == list(presets()["wikipedia"].configurations)
    assert found["verified"] is False


def test_whether_an_architecture_is_supported_is_an_exit_code_and_a_reason(secateur):
    llava = secateur("info", "--architecture", "llava")
    assert llava.returncode == 0
    assert re.search(r"text models +llama, mistral, .*\nvision towers +clip_vision_model", llava.stdout)
    refused = secateur("info", "--architecture", "gemma3n")
    assert refused.returncode == 7
    assert "altup_num_inputs: blocks hand on several hidden states for each token" in refused.stdout
    found = secateur("info", "--architecture", "gemma3n", "-o", "json")
    assert (found.returncode, json.loads(found.stdout)["supported"]) == (7, False)
    assert len(json.loads(found.stdout)["obstacles"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["info", "--corpus", "c4"], 2, "the service has mc4, fineweb-2"),
        (["submit"], 2, "--model"),
        (["submit", "--model", "file:///m", "-l", "de=much"], 3, "de=0.7"),
        (["submit", "--model", "file:///m", "--override", "*.down_proj.weight"], 3, "expected LAYERS=TARGET"),
        (["submit", "--model", "file:///m", "--vocabulary-weight", "en=two"], 3, "'two' is not a number"),
        (["submit", "--model", "file:///m", "--limit", "uk"], 3, "expected e.g. uk=0.01"),
        (["submit", "--model", "file:///m", "--label", "novalue"], 2, "KEY=VALUE"),
        (["submit", "--model", "file:///m", "--label", "a=1", "--label", "a=2"], 2, "a is given twice"),
        (["submit", "/nowhere/spec.yaml"], 2, "cannot read the specification /nowhere/spec.yaml: No such file"),
        (["sweep", "."], 2, "cannot read the specification .: Is a directory"),
        (["verify", "/nowhere"], 2, "cannot read the folder /nowhere: No such file"),
        (["compare"], 2, "JOB"),
        (["compare", "nope"], 4, "nope"),
        (["compare", "a", "a"], 2, "JOB a: pruneJobs/a is there already"),
        (["compare", "a", "-l", "not a tag", "--max-growth", "0.05"], 2, "1.05 permits"),
        (["gate", "nope"], 2, "--max-growth"),
        (["gate", "out/report.json", "--max-growth", "1.1"], 2, "neither a folder nor a file"),
        (["submit", "--model", "file:///m", "--dry-run", "--request-id", "x"], 2, "--dry-run makes none"),
        (["gate", "nope", "--max-growth", "1.05"], 4, "nope"),
        (["gate", "nope", "--max-task-loss", "0.05"], 4, "nope"),
        (["submit", "--samples", "few"], 2, "--samples"),
        (["frobnicate"], 2, "frobnicate"),
        (["list", "--state", "SLEEPING"], 2, "SLEEPING"),
        (["list", "--state", "unspecified"], 2, "unspecified"),
        (["list", "--sort", "name"], 2, "growth"),
        (["list", "--since", "yesterday"], 2, "expected e.g. 2h"),
        (["list", "--label", "nobody=has"], 0, "no jobs: nobody=has"),
        (["delete", "nope", "--yes"], 4, "nope"),
        (["get", "nope"], 4, "nope"),
        (["get", "a/b"], 2, "pruneJobs/"),
        (["watch", "nope"], 4, "nope"),
        (["--endpoint", "nowhere", "info"], 2, "expected host:port"),
        (["info", "--endpoint", "127.0.0.1:1"], 5, "no service at 127.0.0.1:1: nothing listens there"),
    ],
)
def test_every_mistake_has_its_exit_code_and_a_message_that_helps(secateur, arguments, code, message):
    done = secateur(*arguments)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_the_options_after_the_command_win_over_those_before_it(secateur, service):
    assert secateur("--endpoint", "127.0.0.1:1", "info", "--endpoint", service.endpoint).returncode == 0
    assert json.loads(secateur("--output", "json", "info").stdout)["methods"]


def test_the_configuration_file_names_the_service(secateur, service, tmp_path):
    folder = tmp_path / ".config" / "secateur"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'endpoint = "{service.endpoint}"\n')
    assert secateur("info", SECATEUR_ENDPOINT="").returncode == 0


@pytest.mark.parametrize(("make", "code"), [(finished, 0), (failed, 1), (cancelled, 6)])
def test_watching_ends_with_the_code_of_the_outcome(secateur, service, make, code):
    job_id = make(service)
    done = secateur("watch", job_id, "--after", "0")
    assert done.returncode == code, done.stderr
    assert "QUEUED" in done.stdout
    if code == 0:
        assert "50%, 1 of 2 blocks, about 1:01 left" in done.stdout
        assert re.search(r"de \(German\) +10\.000 +12\.500 +1\.250", done.stdout)
    if code == 1:
        assert (done.stdout + done.stderr).count("a NaN in layer 3") == 1
        assert f"secateur logs pruneJobs/{job_id}" in done.stderr


def test_what_a_job_logs_cannot_steer_the_terminal_nor_forge_lines(secateur, service):
    job_id = finished(service)
    for done in (secateur("watch", job_id, "--after", "0"), secateur("logs", job_id)):
        assert "\x1b" not in done.stdout
        assert sum("next line" in line and "hello" in line for line in done.stdout.splitlines()) == 1


def test_the_log_of_a_job_that_failed_ends_with_why(secateur, service):
    job_id = failed(service)
    done = secateur("logs", job_id)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].endswith("FAILED: NON_FINITE: a NaN in layer 3")
    last = json.loads(secateur("logs", job_id, "-o", "json").stdout.splitlines()[-1])
    assert (last["state"], last["failure"]["reason"]) == ("FAILED", "NON_FINITE")


def test_watching_as_json_gives_one_event_a_line_in_order(secateur, service):
    job_id = finished(service)
    done = secateur("watch", job_id, "--after", "0", "-o", "json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert {event["kind"] for event in events} >= {"state", "stage", "progress", "log"}
    assert events[-1]["state"] == "SUCCEEDED"


class Terminal:
    """The command on a terminal of its own; `shown` is all that it has drawn."""

    def __init__(self, environment, *arguments):
        self.ours, theirs = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], env={**environment, "TERM": "xterm-256color"}, stdout=theirs, stderr=theirs
        )
        os.close(theirs)

    def read(self, until=None):
        """Take what is drawn until it has a text, or until the command has ended; returns its lines without colours."""
        while until is None or until not in self.shown:
            try:
                chunk = os.read(self.ours, 65536)
            except OSError as error:
                assert error.errno == 5  # noqa: PT017 - the other side of the terminal was closed
                assert until is None, self.shown
                os.close(self.ours)
                self.process.wait(HANG_SECONDS)
                break
            self.shown += chunk.decode()
        without_colours = re.sub(r"\x1b\[[0-9;]*m", "", self.shown)
        return [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", without_colours) if line.strip()]


def test_a_terminal_shows_where_the_job_stands_also_to_those_who_come_back(environment, service):
    job_id = service.running_job()
    service.store.heartbeat(job_id, 1, lease_seconds=600)
    progress = {"blocks_done": 1, "blocks_total": 2, "fraction": 0.5, "eta_seconds": 3661.0}
    service.store.append(job_id, 1, [(EventKind.STAGE, {"stage": "PRUNING"}), (EventKind.PROGRESS, progress)])
    seen = service.store.get(job_id).last_sequence
    for resumed in ([], ["--after", str(seen)], ["--after", "0"]):
        watch = Terminal(environment, "watch", job_id, "--timeout", "2", *resumed)
        lines = watch.read()
        bars = [line for line in lines if "━" in line]
        assert all(re.match(r"PRUNING +━.* 50%  1/2 blocks  \d+:\d\d  1:0[01]:\d\d left", line) for line in bars), bars
        assert bars
        assert lines[-1].startswith(f"pruneJobs/{job_id} has not ended within 2 seconds; it keeps running")
        assert watch.process.returncode == 124


def test_a_watch_ends_with_the_verdicts_in_the_colour_of_their_weight(environment, secateur, service):
    kept = {"kind": "WITHIN_NOISE", "language": "en", "message": "en: nothing was lost", "evidence": None}
    lost = {"kind": "LANGUAGE_LOST", "language": "de", "message": "de: all but \x1b[5mforgotten", "evidence": None}
    job_id = service.running_job()
    watch = Terminal(environment, "watch", job_id)
    watch.read(until="RUNNING")
    told = [
        {"level": "debug", "message": "for experts"},
        {"level": "info", "message": "de: all", "fields": {"verdict": 1}},
    ]
    service.store.append(job_id, 1, [(EventKind.LOG, {"fields": {}, **line}) for line in told])
    report = {**json.loads(REPORT), "verdicts": [lost, kept]}
    service.publish(job_id, {**FILES, "report/report.json": json.dumps(report).encode()})
    lines = watch.read()
    at = next(number for number, line in enumerate(lines) if line.startswith("manifest "))
    assert lines[at + 1 : at + 3] == ["- de: all but \\x1b[5mforgotten", "- en: nothing was lost"]
    assert "\x1b[31m- de: all but" in watch.shown
    assert "100%" in [line for line in lines if line.startswith("SUCCEEDED ")][-1]
    assert "for experts" not in watch.shown
    assert watch.shown.count("de: all") == 1
    plain = secateur("watch", job_id)
    assert plain.stdout.splitlines()[-2:] == ["- de: all but \\x1b[5mforgotten", "- en: nothing was lost"]


def test_ctrl_c_ends_a_watch_and_says_how_to_go_on(environment, service):
    job_id = service.running_job()
    process = subprocess.Popen(
        [*COMMAND, "watch", job_id],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - what runs in the background ignores it
    )
    assert "RUNNING" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 130
    assert f"secateur watch pruneJobs/{job_id} --after 2" in message
    assert "Traceback" not in message


def test_a_reader_that_goes_away_is_no_error_worth_a_traceback(environment, service):
    for _ in range(3):
        service.queued_job()
    process = subprocess.Popen([*COMMAND, "list"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(HANG_SECONDS) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_job_is_shown_listed_reported_and_downloaded(secateur, service, tmp_path):
    job_id = finished(service)
    name = f"pruneJobs/{job_id}"
    shown = secateur("get", job_id)
    assert name in shown.stdout
    assert "SUCCEEDED" in shown.stdout
    assert json.loads(secateur("get", name, "-o", "json").stdout)["result"]["languages"]["de"]["dense_perplexity"] == 10
    assert job_id in secateur("list", "--state", "succeeded", "--since", "1h", "--sort", "ended").stdout
    assert secateur("get", job_id[:-1]).stdout == shown.stdout
    for _ in range(16):  # now two ids begin alike
        service.queued_job()
    ids = [line.split()[0] for line in secateur("list").stdout.splitlines()[1:]]
    letter = next(letter for letter in "0123456789abcdef" if sum(each.startswith(letter) for each in ids) > 1)
    ambiguous = secateur("get", letter)
    assert (ambiguous.returncode, "begins the ids of several jobs" in ambiguous.stderr) == (4, True)
    listed = secateur("list", "-o", "json", "--limit", "1").stdout.splitlines()
    assert len(listed) == 1
    assert "12.500" in secateur("report", name).stdout
    assert json.loads(secateur("report", name, "-o", "json").stdout) == json.loads(REPORT)
    done = secateur("download", name, str(tmp_path / "out"))
    assert (done.returncode, "3 files verified" in done.stdout) == (0, True), done.stderr
    assert (tmp_path / "out/report/report.json").read_bytes() == REPORT
    damaged = tmp_path / "out/report/report.json"
    damaged.write_bytes(REPORT[:-1] + b" ")
    found = secateur("verify", str(tmp_path / "out"))
    assert (found.returncode, found.stdout.splitlines()[1:]) == (8, ["damaged  report/report.json"])
    done = secateur("download", name, str(tmp_path / "out"))
    assert (done.returncode, f"; repaired, as they were damaged: {damaged}" in done.stdout) == (0, True), done.stdout
    digest = json.loads(secateur("get", name, "-o", "json").stdout)["result"]["manifest_sha256"]
    found = secateur("verify", str(tmp_path / "out"), "--manifest", digest, "-o", "json", "--endpoint", "127.0.0.1:1")
    assert (found.returncode, json.loads(found.stdout)["intact"]) == (0, True)
    done = secateur("download", finished(service), str(tmp_path / "out"))
    assert done.returncode == 8
    assert f"holds the result of job {job_id}; choose another folder" in done.stderr
    assert secateur("verify", str(tmp_path)).returncode == 8


def test_a_download_that_does_not_verify_has_its_own_code(secateur, service, tmp_path):
    job_id = service.running_job()
    folder = service.publish(job_id, FILES)
    (folder / "checkpoint/config.json").write_bytes(b"[]")
    done = secateur("download", job_id, str(tmp_path / "out"))
    assert done.returncode == 8
    assert "SHA-256" in done.stderr


def test_a_report_that_is_not_there_yet_is_refused_with_the_state(secateur, service):
    job_id = service.running_job()
    for arguments in (["report", job_id], ["report", job_id, "-o", "json"], ["download", job_id, "out"]):
        done = secateur(*arguments)
        assert done.returncode == 7
        assert "RUNNING" in done.stderr


def evaluated(service, **changes):
    """A job with a whole report."""
    job_id = service.running_job()
    report = make_report(**changes)
    service.publish(
        job_id, {**FILES, "report/report.json": report.to_bytes(), "report/report.html": render_html(report)}
    )
    return job_id


def test_jobs_are_compared_and_the_page_is_written(secateur, service, tmp_path):
    jobs = [evaluated(service, ratios={"de": ratio}, mix={"de": 1.0}) for ratio in (1.3, 1.1)]
    page = tmp_path / "page.html"
    done = secateur("compare", *jobs, "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert f"recommended for de (German): pruneJobs/{jobs[1]} (B)" in done.stdout
    assert str(page) in done.stderr
    assert "loses least in B" in page.read_text(encoding="utf-8")
    found = json.loads(secateur("compare", *jobs, "--max-growth", "1.2", "-o", "json").stdout)
    assert found["recommendation"]["chosen"]["job"] == "B"
    assert secateur("compare", *jobs, "--html", "/nowhere/page.html").returncode == 2
    found = json.loads(secateur("compare", jobs[0], "--related", "-o", "json").stdout)
    assert [job["name"] for job in found["jobs"]][:2] == [f"pruneJobs/{jobs[0]}", f"pruneJobs/{jobs[1]}"]
    page.unlink()
    done = secateur("report", jobs[1], "--html", str(page))
    assert (done.returncode, done.stderr) == (0, f"the page is in {page}\n")
    assert f"pruneJobs/{jobs[0]}" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (["--max-growth", "1.1"], 0, "PASS: perplexity grew at most ×1.0600 (en), within ×1.1"),
        (["--max-growth", "1.055"], 10, "FAIL: perplexity grew more than ×1.055: en ×1.0600"),
        (["--max-growth", "1.055", "-l", "de", "-l", "uk"], 0, "PASS: perplexity grew at most ×1.0500 (de)"),
        (["--max-growth", "1.1", "-l", "es"], 10, "FAIL: perplexity grew more than ×1.1: es ×1.5000"),
        (["--max-task-loss", "0.02"], 10, "FAIL: tasks lost more than 0.02: acc of trains_de 0.0400"),
        (["--max-task-loss", "0.04", "--max-growth", "1.1"], 0, "PASS: perplexity grew at most ×1.0600 (en), within"),
        (["--max-task-loss", "0.04", "--task", "trains_de", "--sure"], 10, "FAIL: tasks may have lost more than 0.04"),
    ],
)
def test_the_gate_prints_a_line_for_each_language_and_ends_with_its_code(secateur, service, arguments, code, last):
    done = secateur("gate", evaluated(service, tasks=[answered("trains_de", lost=6, won=2)]), *arguments)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (code, "")
    assert lines[-1].startswith(last)
    assert all(line.startswith(("PASS  ", "FAIL  ")) for line in lines[:-1])


def test_the_gate_names_what_was_evaluated_where_a_language_was_not(secateur, service):
    done = secateur("gate", evaluated(service), "--max-growth", "1.1", "-l", "fr")
    assert (done.returncode, done.stdout) == (2, "")
    assert "fr was not evaluated; the report has de, en, es, uk" in done.stderr


def test_a_job_that_exceeded_a_limit_is_judged_alike_by_name_and_as_a_folder(secateur, service, tmp_path):
    verdict = Verdict(kind="LIMIT_EXCEEDED", language="de", message="too much")
    report = make_report().model_copy(update={"verdicts": (verdict,)})
    job_id = service.running_job()
    contents = {"report/report.json": report.to_bytes(), "report/report.html": render_html(report)}
    service.publish(job_id, contents, exceeded=True)
    assert secateur("download", job_id, str(tmp_path / "out")).returncode == 0
    places = (job_id, str(tmp_path / "out"), str(tmp_path / "out/report/report.json"))
    gates = [secateur("gate", named, "--max-growth", "3") for named in places]
    assert gates[0].stdout == gates[1].stdout == gates[2].stdout
    assert [done.returncode for done in gates] == [10, 10, 10]
    assert gates[0].stdout.endswith("FAIL: the job exceeded a limit of its specification and has no checkpoint\n")


def test_a_folder_without_a_report_is_not_taken_for_a_job(secateur, tmp_path):
    done = secateur("gate", str(tmp_path), "--max-growth", "3")
    assert done.returncode == 2
    assert f"the folder {tmp_path} has no report/report.json" in done.stderr


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (Service.running_job, 7, "is RUNNING and has no result yet; give --wait"),
        (failed, 1, "a NaN in layer 3"),
        (cancelled, 6, "cancelled"),
    ],
)
def test_a_job_without_a_result_ends_every_command_that_needs_one_with_the_reason(
    secateur, service, tmp_path, make, code, told
):
    job_id = make(service)
    done = secateur("gate", job_id, "--max-growth", "1.1")
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr
    for arguments in (["report", job_id], ["download", job_id, str(tmp_path / "out")]):
        done = secateur(*arguments)
        assert (done.returncode, done.stdout, told.split(" and ")[0] in done.stderr) == (code, "", True)
    compared = secateur("compare", evaluated(service), job_id)
    assert compared.returncode == 7
    assert job_id in compared.stderr


def test_cancelling_is_harmless_when_repeated(secateur, service):
    job_id = service.queued_job()
    for _ in range(2):
        done = secateur("cancel", job_id)
        assert (done.returncode, "CANCELLED" in done.stdout) == (0, True)


def test_a_job_is_deleted_without_a_question_only_where_that_is_said(secateur, service):
    job_id, running = finished(service), service.running_job()
    folder = service.data_dir / "artifacts" / job_id
    asked = secateur("delete", job_id, "--artifacts")
    assert (asked.returncode, "needs --yes" in asked.stderr) == (2, True)
    done = secateur("delete", job_id, "--artifacts", "--yes", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"name": f"pruneJobs/{job_id}", "deleted_files": 4})
    assert not [path for path in folder.rglob("*") if path.is_file()]
    assert secateur("get", job_id).returncode == 4
    refused = secateur("delete", running, "--yes")
    assert (refused.returncode, "cancel it" in refused.stderr) == (7, True)


def test_a_permanent_failure_is_retried_only_where_something_changes(secateur, service, tmp_path):
    model = save_model(service.file_root / "retried", vocab_size=258)
    asked = spec_data(model, *save_corpora(service.file_root / "text"))
    (tmp_path / "spec.yaml").write_text(json.dumps(asked))
    submitted = secateur("submit", str(tmp_path / "spec.yaml"))
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.strip().removeprefix("pruneJobs/")
    while (claimed := service.store.claim(owner="test", lease_seconds=600)).id != job_id:
        pass
    service.store.release(job_id, claimed.attempt, Failure("NON_FINITE", "a NaN in layer 3", retryable=False))
    done = secateur("retry", job_id)
    assert (done.returncode, done.stdout) == (7, "")
    assert "a NaN in layer 3" in done.stderr
    assert "the same will happen again" in done.stderr
    same = json.loads(secateur("retry", job_id, "--force", "-o", "json").stdout)
    assert (same["retry_of"], same["resolved_spec"]["pruning"]["sparsity"]) == (f"pruneJobs/{job_id}", 0.5)
    changes = ["--set", "pruning.sparsity=0.4", "--set", "limits.languages={de: 0.05}"]
    other = json.loads(secateur("retry", job_id, *changes, "-o", "json").stdout)
    assert other["retry_of"] == f"pruneJobs/{job_id}"
    assert (other["spec"]["pruning"], other["resolved_spec"]["pruning"]["sparsity"]) == (
        {"method": "wanda", "sparsity": 0.4},
        0.4,
    )
    done = secateur("retry", job_id, "--set", "pruning.sparsity=1.4")
    assert (done.returncode, done.stderr.startswith("pruning.sparsity: ")) == (3, True)
    assert secateur("retry", job_id, "--set", "pruning").returncode == 2
