"""No parser takes much more time or memory than the bytes that it is given are worth, whatever they are.

Time is that of the processor in a process of its own, so that a busy machine does not count, and the bounds are some
ten times what the worst input takes. A reader that lacks one of its limits is found out.
"""

import random
import struct

import pytest

import secateur._spec
import secateur._yaml
from attacks.costs import cost_of
from attacks.mutants import mutant
from secateur.v1 import prune_job_pb2 as pb
from secateur.v1 import prune_service_pb2 as service_pb
from secateur_service import bounded
from secateur_service.api import pages, servicer
from secateur_service.artifacts import manifest
from secateur_service.calibration import containers
from secateur_service.calibration.documents import Reading
from secateur_service.errors import ServiceError
from secateur_service.jobs.filters import NEWEST_FIRST, Filter
from secateur_service.models import companions, safetensors, weights

MEGABYTE = 1_000_000
SIZE = MEGABYTE // 3
SECONDS_PER_MEGABYTE = 5
MEMORY_PER_BYTE = 64
MEMORY_AT_LEAST = 24 << 20


def joined(piece, size, before=b"", between=b",", after=b""):
    """`before`, so many pieces that they have the size, and `after`; the pieces are numbered where they say %d."""
    count = max(1, size // (len(piece) + len(between)))
    pieces = (piece % number for number in range(count)) if b"%d" in piece else [piece] * count
    return before + between.join(pieces) + after


JSON = {
    "brackets": lambda size: b"[" * size,
    "objects in objects": lambda size: b'{"a":' * (size // 5),
    "brackets that are closed": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "empty lists": lambda size: joined(b"[]", size, b"[", b",", b"]"),
    "empty lists in an object": lambda size: joined(b'"%d":[]', size, b"{", b",", b"}"),
    "empty objects": lambda size: joined(b"{}", size, b"[", b",", b"]"),
    "one name again and again": lambda size: joined(b'"a":0', size, b"{", b",", b"}"),
    "many names": lambda size: joined(b'"%d":0', size, b"{", b",", b"}"),
    "small numbers": lambda size: joined(b"1", size, b"[", b",", b"]"),
    "one number": lambda size: b"9" * size,
    "numbers as long as they may be": lambda size: joined(b"9" * 4300, size, b"[", b",", b"]"),
    "numbers with exponents": lambda size: joined(b"1e999999999", size, b"[", b",", b"]"),
    "small texts": lambda size: joined(b'""', size, b"[", b",", b"]"),
    "a text of escapes": lambda size: joined(b"\\u0041", size, b'"', b"", b'"'),
    "halves of characters": lambda size: joined(b"\\ud800", size, b'"', b"", b'"'),
    "a text of quotes that never ends": lambda size: joined(b'\\"', size, b'["', b"", b""),
    "texts that never end": lambda size: b'"' * size,
    "backslashes": lambda size: b"\\" * size,
    "white space": lambda size: b" " * size,
    "commas in a text": lambda size: b'"' + b"," * size + b'"',
    "a list of huge dimensions": lambda size: joined(
        b"9223372036854775807", size, b'{"a":{"dtype":"F32","data_offsets":[0,4],"shape":[', b",", b"]}}"
    ),
    "tensors": lambda size: joined(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}', size, b"{", b",", b"}"),
    "a name of everything": lambda size: b'{"' + b"x" * size + b'":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
    "a type of everything": lambda size: b'{"a":{"dtype":"' + b"x" * size + b'","shape":[0],"data_offsets":[0,0]}}',
    "a map to one file": lambda size: joined(b'"%d":"a"', size, b'{"weight_map":{', b",", b"}}"),
    "a map to as many files": lambda size: (
        b'{"weight_map":{' + b",".join(b'"%d":"f%d"' % (n, n) for n in range(size // 18)) + b"}}"
    ),
}
TOKENS = [*(bytes([code]) for code in b'[]{},:"1 -e'), b"\\", b'"a"', b'"a":', b"[]", b"null", b"\\u"]
YAML = {
    "aliases of aliases": lambda size: (
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [*a%d,*a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, min(60, size // 20)))
        + b"model: {uri: *a59}\n"
    ),
    "merges of merges": lambda size: (
        b"a0: &a0 {x: 1}\n"
        + b"".join(b"a%d: &a%d {<<: [*a%d,*a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, min(60, size // 20)))
    ),
    "within itself": lambda _size: b"model: &a [*a]\n",
    "brackets": lambda size: b"[" * size,
    "mappings": lambda size: b"{a: " * (size // 4),
    "indented": lambda size: b"\n".join(b" " * n + b"a:" for n in range(int((2 * size) ** 0.5))),
    "a long list": lambda size: b"a: [" + b"1," * (size // 2) + b"]",
    "many keys": lambda size: b"".join(b"k%d: 1\n" % n for n in range(size // 10)),
    "one number": lambda size: b"a: " + b"9" * size,
    "anchors": lambda size: b"".join(b"k%d: &a%d 1\n" % (n, n) for n in range(size // 16)),
    "quotes": lambda size: b"a: '" + b"''" * (size // 2) + b"'",
    "comments": lambda size: b"#\n" * (size // 2),
    "question marks": lambda size: b"? " * (size // 2),
    "dashes": lambda size: b"- " * (size // 2),
}


def header(folder, content, module=safetensors):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(content)) + content)
    return lambda: module.read_header(path)


def index(folder, content, module=weights):
    (folder / "model.safetensors.index.json").write_bytes(content)
    return lambda: module.read_tensors(folder)


def config(folder, content, module=weights):
    path = folder / "config.json"
    path.write_bytes(content)
    return lambda: module.read_object(path, module.CONFIG_LIMITS)


def row(folder, content):
    path = folder / "de.jsonl"
    path.write_bytes(content)
    return lambda: list(containers.rows_of(path, "text", Reading()))


def companion(folder, content):
    return lambda: companions._json(content)


def refusing(call):
    """The same, where refusals are errors of the service."""

    def run():
        try:
            call()
        except ServiceError:
            return

    return run


JSON_PARSERS = {
    "a header": header,
    "an index": index,
    "a configuration": config,
    "a row": row,
    "a file that goes with a model": companion,
    "a manifest": lambda _folder, content: refusing(lambda: manifest.parse_manifest(content)),
    "a page token": lambda _folder, content: refusing(
        lambda: pages.decode_token(content.decode("latin-1"), Filter(), NEWEST_FIRST)
    ),
}


def too_much(call, size):
    """What a call takes too much of; empty where it takes nothing too much."""
    seconds = 2 + SECONDS_PER_MEGABYTE * size / MEGABYTE
    cost = cost_of(call, cpu_seconds=int(seconds) + 1)
    if cost.cpu_seconds > seconds or not cost.ended:
        return f"{cost.cpu_seconds:.1f} s"
    if cost.memory_bytes > MEMORY_AT_LEAST + MEMORY_PER_BYTE * size:
        return f"{cost.memory_bytes >> 20} MiB"
    return ""


@pytest.mark.parametrize("parser", JSON_PARSERS)
def test_no_json_takes_more_than_its_bytes_are_worth(tmp_path, parser):
    for name, make in JSON.items():
        content = make(SIZE)
        assert not too_much(JSON_PARSERS[parser](tmp_path, content), len(content)), name


@pytest.mark.parametrize("parser", JSON_PARSERS)
def test_no_repeated_piece_of_json_takes_more_than_its_bytes_are_worth(tmp_path, parser):
    rng = random.Random(parser)
    for _ in range(6):
        before, piece, after = (b"".join(rng.choices(TOKENS, k=rng.randint(1, 5))) for _ in range(3))
        content = before + piece * (SIZE // len(piece)) + after
        assert not too_much(JSON_PARSERS[parser](tmp_path, content), len(content)), (before, piece, after)


@pytest.mark.parametrize("name", YAML)
def test_no_yaml_takes_more_than_a_specification_may(name):
    content = YAML[name](secateur._spec.MAX_FILE_BYTES - 100)

    def read():
        secateur._spec.spec_message(secateur._spec.parse_yaml(content, "spec.yaml"))

    assert not too_much(refusing_spec(read), 4 * MEGABYTE)  # its parser is slow, and the file small


def refusing_spec(call):
    def run():
        try:
            call()
        except secateur.InvalidSpecError:
            return

    return run


MESSAGES = {
    "languages": lambda: service_pb.CreatePruneJobRequest(
        spec=pb.PruneSpec(calibration=pb.CalibrationSpec(languages=[pb.LanguageWeight()] * 500_000))
    ),
    "overrides": lambda: service_pb.CreatePruneJobRequest(
        spec=pb.PruneSpec(pruning=pb.PruningSpec(overrides=[pb.LayerOverride()] * 500_000))
    ),
    "evaluation languages": lambda: service_pb.CreatePruneJobRequest(
        spec=pb.PruneSpec(evaluation=pb.EvaluationSpec(languages=[""] * 500_000))
    ),
    "labels": lambda: service_pb.CreatePruneJobRequest(labels={str(number): "" for number in range(60_000)}),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_request_of_many_entries_is_refused_before_they_are_read(name):
    request = MESSAGES[name]()
    assert request.ByteSize() < 2**20
    cost = cost_of(refusing(lambda: servicer._plain(request)))
    assert cost.cpu_seconds < 0.5
    assert cost.memory_bytes < MEMORY_AT_LEAST


def test_a_list_of_half_a_million_states_is_refused_before_it_is_read():
    request = service_pb.ListPruneJobsRequest(states=[0] * 1_000_000)
    assert cost_of(refusing(lambda: servicer._states(request))).cpu_seconds < 0.5


def test_a_reader_that_multiplies_any_number_of_dimensions_is_found_out(tmp_path):
    lax = mutant(safetensors, "if len(shape) > MAX_RANK:", "if False:")
    content = JSON["a list of huge dimensions"](3 * MEGABYTE // 2)
    assert not cost_of(header(tmp_path, content, lax), cpu_seconds=2).ended
    assert cost_of(header(tmp_path, content)).cpu_seconds < 1


def test_a_reader_of_any_number_of_tensors_is_found_out(tmp_path):
    lax = mutant(safetensors, "MAX_TENSORS = 120_000", "MAX_TENSORS = 10**9")
    lax._HEADER_LIMITS = bounded.JsonLimits(10**9, values=10**9)
    lax.MAX_HEADER_BYTES = 10**9
    content = JSON["tensors"](40 * MEGABYTE)  # two thirds of a million
    cost = cost_of(header(tmp_path, content, lax))
    assert cost.memory_bytes > 330 << 20
    assert cost_of(header(tmp_path, content)).memory_bytes < MEMORY_AT_LEAST


def test_a_reader_of_configurations_of_any_size_is_found_out(tmp_path):
    lax = mutant(weights, "JsonLimits(4 << 20, values=200_000)", "JsonLimits(50 << 20, values=10**9)")
    content = JSON["empty lists"](5 * MEGABYTE)
    assert cost_of(config(tmp_path, content, lax)).memory_bytes > 80 << 20
    assert cost_of(config(tmp_path, content)).memory_bytes < MEMORY_AT_LEAST


def test_a_reader_of_yaml_that_writes_aliases_out_is_found_out():
    lax = mutant(secateur._yaml, "if count(root, 1) > limits.values:", "if False:")
    content = YAML["aliases of aliases"](1000).replace(b"*a59", b"*a47")

    def read():
        secateur._spec._fill(pb.PruneSpec(), lax.parse_yaml(content, secateur._spec._LIMITS), "", lambda *_: None)

    cost = cost_of(read, cpu_seconds=2, memory_bytes=1 << 30)
    assert not cost.ended


def test_the_largest_models_that_are_published_are_read(tmp_path):
    """As many tensors in one file as DeepSeek-V3 has in 163."""
    names = [f"model.layers.{n // 1500}.mlp.experts.{n % 1500}.down_proj.weight_scale" for n in range(92_000)]
    entries = [b'"%s":{"dtype":"U8","shape":[0,7],"data_offsets":[0,0]}' % name.encode() for name in names]
    content = b"{" + b",".join(entries) + b"}"
    cost = cost_of(lambda: len(header(tmp_path, content)()) == 92_000 or 1 / 0)
    assert cost.ended
    assert cost.memory_bytes < 128 << 20
