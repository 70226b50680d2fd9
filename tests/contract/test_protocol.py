"""What clients rely on: the stubs match the protocol, the protocol does not break, and its names follow the rules."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from secateur import _channel
from secateur.v1 import prune_job_pb2, prune_service_pb2
from secateur_service.api import server
from support.protocol import breaking_changes
from support.waiting import HANG_SECONDS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "secateur.v1"


def _current() -> descriptor_pb2.FileDescriptorSet:
    """The protocol as the stubs have it."""
    files = descriptor_pb2.FileDescriptorSet()
    for module in (prune_job_pb2, prune_service_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files


def _frozen() -> descriptor_pb2.FileDescriptorSet:
    content = (ROOT / "proto" / "secateur" / "v1" / "frozen.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(content)


def test_the_generated_stubs_have_not_drifted_from_the_protocol():
    command = [sys.executable, str(ROOT / "scripts" / "generate_stubs.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_protocol_keeps_all_that_was_promised():
    assert breaking_changes(_frozen(), _current()) == []


def _file(files: descriptor_pb2.FileDescriptorSet, name: str) -> descriptor_pb2.FileDescriptorProto:
    return next(file for file in files.file if file.name.endswith(name))


def _message(files: descriptor_pb2.FileDescriptorSet, name: str) -> descriptor_pb2.DescriptorProto:
    return next(message for file in files.file for message in file.message_type if message.name == name)


def _remove_field(files: descriptor_pb2.FileDescriptorSet) -> None:
    del _message(files, "PruneJob").field[3]


def _renumber_field(files: descriptor_pb2.FileDescriptorSet) -> None:
    _message(files, "Progress").field[0].number = 99


def _rename_field(files: descriptor_pb2.FileDescriptorSet) -> None:
    _message(files, "Progress").field[0].name = "blocks_finished"


def _retype_field(files: descriptor_pb2.FileDescriptorSet) -> None:
    _message(files, "Estimate").field[0].type = descriptor_pb2.FieldDescriptorProto.TYPE_INT32


def _change_message_of_field(files: descriptor_pb2.FileDescriptorSet) -> None:
    field = next(field for field in _message(files, "PruneJob").field if field.name == "failure")
    field.type_name = ".secateur.v1.Result"


def _make_single(files: descriptor_pb2.FileDescriptorSet) -> None:
    field = next(field for field in _message(files, "CalibrationSpec").field if field.name == "languages")
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL


def _forget_presence(files: descriptor_pb2.FileDescriptorSet) -> None:
    field = next(field for field in _message(files, "PruningSpec").field if field.name == "sparsity")
    field.proto3_optional = False
    field.ClearField("oneof_index")


def _move_out_of_oneof(files: descriptor_pb2.FileDescriptorSet) -> None:
    field = next(field for field in _message(files, "PruneJobEvent").field if field.name == "snapshot")
    field.ClearField("oneof_index")


def _remove_message(files: descriptor_pb2.FileDescriptorSet) -> None:
    file = _file(files, "prune_job.proto")
    del file.message_type[-1]


def _remove_enum_value(files: descriptor_pb2.FileDescriptorSet) -> None:
    del _file(files, "prune_job.proto").enum_type[0].value[2]


def _renumber_enum_value(files: descriptor_pb2.FileDescriptorSet) -> None:
    _file(files, "prune_job.proto").enum_type[0].value[2].number = 77


def _remove_method(files: descriptor_pb2.FileDescriptorSet) -> None:
    del _file(files, "prune_service.proto").service[0].method[1]


def _stop_streaming(files: descriptor_pb2.FileDescriptorSet) -> None:
    methods = _file(files, "prune_service.proto").service[0].method
    next(method for method in methods if method.name == "WatchPruneJob").server_streaming = False


def _answer_otherwise(files: descriptor_pb2.FileDescriptorSet) -> None:
    _file(files, "prune_service.proto").service[0].method[0].output_type = ".secateur.v1.PruneReport"


def _move_package(files: descriptor_pb2.FileDescriptorSet) -> None:
    _file(files, "prune_job.proto").package = "secateur.v2"


@pytest.mark.parametrize(
    "mutate",
    [
        _remove_field,
        _renumber_field,
        _rename_field,
        _retype_field,
        _change_message_of_field,
        _make_single,
        _forget_presence,
        _move_out_of_oneof,
        _remove_message,
        _remove_enum_value,
        _renumber_enum_value,
        _remove_method,
        _stop_streaming,
        _answer_otherwise,
        _move_package,
    ],
    ids=lambda mutate: mutate.__name__.strip("_"),
)
def test_a_change_that_breaks_clients_is_noticed(mutate: Callable[[descriptor_pb2.FileDescriptorSet], None]):
    changed = _frozen()
    mutate(changed)
    assert breaking_changes(_frozen(), changed)


def test_an_addition_breaks_nobody():
    changed = _frozen()
    _message(changed, "Progress").field.add(name="new_field", number=50, type=1, label=1)
    _file(changed, "prune_job.proto").enum_type[0].value.add(name="JOB_STATE_NEW", number=50)
    _file(changed, "prune_service.proto").service[0].method.add(name="New")
    _file(changed, "prune_job.proto").message_type.add(name="New")
    assert breaking_changes(_frozen(), changed) == []


def test_files_lie_where_their_package_says():
    for file in _current().file:
        assert file.package == PACKAGE
        assert file.name.startswith("secateur/v1/")
        assert (ROOT / "proto" / file.name).exists()


def test_enum_values_carry_the_name_of_their_enum_and_begin_with_unspecified():
    for file in _current().file:
        for enum in file.enum_type:
            prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
            assert enum.value[0].name == prefix + "UNSPECIFIED"
            assert enum.value[0].number == 0
            assert all(value.name.startswith(prefix) for value in enum.value)


def test_fields_are_snake_case_and_lists_are_plural():
    irregular = {"snr_db"}
    for file in _current().file:
        for message in file.message_type:
            for field in message.field:
                assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name), (message.name, field.name)
                if field.label == field.LABEL_REPEATED and field.name not in irregular:
                    assert field.name.endswith("s"), (message.name, field.name)


def test_methods_take_requests_of_their_own():
    service = _file(_current(), "prune_service.proto").service[0]
    for method in service.method:
        assert method.input_type == f".{PACKAGE}.{method.name}Request"
    names = [method.name for method in service.method]
    assert len(names) == len(set(names)) == 11


def test_the_sdk_takes_every_answer_that_the_service_sends():
    assert _channel._MAX_ANSWER_BYTES == server._MAX_ANSWER_BYTES == 64 * 2**20
    assert "At most 64 MiB" in (ROOT / "proto" / "secateur" / "v1" / "prune_service.proto").read_text()
