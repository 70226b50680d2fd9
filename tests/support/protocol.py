"""Compares two versions of the protocol and lists what would break clients that were built with the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2

Files = descriptor_pb2.FileDescriptorSet
OURS = "secateur/"


def breaking_changes(old: Files, new: Files) -> list[str]:
    """What is gone or different in `new`; additions are not."""
    before, after = _promises(old), _promises(new)
    changes = [f"{name} is gone" for name in before.keys() - after.keys()]
    both = before.keys() & after.keys()
    changes += [f"{name} was {before[name]}, is {after[name]}" for name in both if before[name] != after[name]]
    return sorted(changes)


def _promises(files: Files) -> Mapping[str, Any]:
    """Everything that a client may hold on to, by its full name."""
    return dict(promise for file in files.file if file.name.startswith(OURS) for promise in _of_file(file))


def _of_file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[str, Any]]:
    for message in file.message_type:
        yield from _of_message(message, file.package)
    yield from _of_enums(file.enum_type, file.package)
    for service in file.service:
        for method in service.method:
            streams = (method.client_streaming, method.server_streaming)
            yield f"{file.package}.{service.name}.{method.name}", (method.input_type, method.output_type, *streams)


def _of_message(message: descriptor_pb2.DescriptorProto, scope: str) -> Iterator[tuple[str, Any]]:
    name = f"{scope}.{message.name}"
    yield name, "message"
    for field in message.field:
        oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        yield f"{name}.{field.name}", (field.number, field.type, field.type_name, field.label, oneof)
    for nested in message.nested_type:
        yield from _of_message(nested, name)
    yield from _of_enums(message.enum_type, name)


def _of_enums(enums: Iterable[descriptor_pb2.EnumDescriptorProto], scope: str) -> Iterator[tuple[str, Any]]:
    for enum in enums:
        for value in enum.value:
            yield f"{scope}.{enum.name}.{value.name}", value.number
