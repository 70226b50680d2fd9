import contextlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from secateur_service.models.safetensors import (
    MalformedCheckpointError,
    UnsupportedTypeError,
    read_header,
    write_shard,
)
from secateur_service.models.tensors import TensorReader, output_tensor


def example_tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(5, 3, generator=generator).bfloat16(),
        "b.weight": torch.randn(4, 4, generator=generator),
        "c.bias": torch.randn(7, generator=generator).half(),
        "empty": torch.zeros(0, 3),
    }


def test_files_of_the_library_are_read_bit_for_bit(tmp_path):
    tensors = example_tensors()
    save_file(tensors, tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    reader = TensorReader()
    assert header.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(reader.read(header[name]), tensor)
    assert torch.equal(reader.read_rows(header["b.weight"], 1, 3), tensors["b.weight"][1:3])
    assert torch.equal(reader.gather_rows(header["a.weight"], [4, 0, 4]), tensors["a.weight"][[4, 0, 4]])


def test_what_is_written_is_what_the_library_reads_and_its_name_carries_its_digest(tmp_path):
    import hashlib

    tensors = example_tensors()
    written = write_shard(tmp_path, "block-00000", [output_tensor(name, tensor) for name, tensor in tensors.items()])
    content = (tmp_path / written.name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == written.sha256
    assert written.name == f"model-block-00000-{written.sha256[:16]}.safetensors"
    assert written.size_bytes == len(content)
    with safe_open(tmp_path / written.name, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor)
    assert not list(tmp_path.glob("*.partial"))


def test_copying_a_tensor_through_yields_the_same_bytes_and_digest_as_reading_it(tmp_path):
    save_file(example_tensors(), tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    reading, copying = TensorReader(), TensorReader()
    for info in header.values():
        reading.read(info)
    write_shard(tmp_path, "copy", [copying.copy(info) for info in header.values()])
    assert copying.digests == reading.digests
    assert copying.model_digest({}, []) == reading.model_digest({}, [])


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def broken():
        yield b"\0" * 8
        raise OSError(28, "No space left on device")

    from secateur_service.models.safetensors import OutputTensor

    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path, "x", [OutputTensor("w", "F32", (4,), broken())])
    with pytest.raises(ValueError, match="the shapes need"):
        write_shard(tmp_path, "x", [OutputTensor("w", "F32", (4,), (b"\0" * 12,))])
    assert list(tmp_path.iterdir()) == []


def file_with(tmp_path, header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def tensor(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "data", "length", "complaint"),
    [
        ({"a": tensor()}, b"\0" * 7, None, "describes"),
        ({"a": tensor()}, b"\0" * 9, None, "describes"),
        ({"a": tensor(), "b": tensor(4, 12)}, b"\0" * 12, None, "overlaps"),
        ({"a": tensor(), "b": tensor(12, 20)}, b"\0" * 20, None, "gap"),
        ({"a": tensor(shape=(3,))}, b"\0" * 8, None, "what its shape needs"),
        ({"a": tensor(dtype="F8_E4M3", shape=(8,))}, b"\0" * 8, None, "type"),
        ({"a": tensor(shape=(-2,))}, b"\0" * 8, None, "negative"),
        ({"a": tensor(8, 0)}, b"\0" * 8, None, "malformed"),
        (b"not json", b"", None, "malformed"),
        (b"[1]", b"", None, "malformed"),
        (b"[" * 100_000, b"", None, "malformed"),
        ({"a": {}}, b"", None, "malformed"),
        ({}, b"", 2**63, "claims a header"),
        ({}, b"", 200_000_000, "claims a header"),
    ],
)
def test_malformed_files_are_refused_with_what_is_wrong(tmp_path, header, data, length, complaint):
    with pytest.raises(MalformedCheckpointError, match=complaint):
        read_header(file_with(tmp_path, header, data, length))


@settings(max_examples=300)
@given(content=st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_in_another_way(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(content)
    with contextlib.suppress(MalformedCheckpointError):
        read_header(path)


@pytest.mark.parametrize(
    "dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I4", "U16", "U32", "U64", "C64", "F99", "", 7, None]
)
def test_an_element_type_that_is_not_read_is_called_that_with_the_tensor_and_the_remedy(dtype, tmp_path):
    path = tmp_path / "m.safetensors"
    header = json.dumps({"a.weight": {"dtype": dtype, "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(UnsupportedTypeError, match=r"of tensor a\.weight is not supported.*dequantise") as caught:
        read_header(path)
    assert repr(str(dtype)) in str(caught.value)
    assert "malformed" not in str(caught.value)


class Dribbling:
    """A file that is read in pieces of a few bytes."""

    def __init__(self, path):
        self.file = path.open("rb", buffering=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def seek(self, position):
        return self.file.seek(position)

    def read(self, size):
        return self.file.read(min(size, 7))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
@pytest.mark.parametrize("open_file", [Dribbling, lambda path: path.open("rb", buffering=0)])
def test_values_that_are_not_finite_are_counted_however_a_file_is_read(dtype, open_file, tmp_path):
    tensor = torch.ones(5, 9).to(dtype)
    bad = 0
    if dtype.is_floating_point:
        tensor.view(-1)[[0, 7, 8, 44]] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan]).to(dtype)
        bad = 4
    save_file(
        {"before": torch.zeros(3), "weight": tensor, "none": torch.zeros(0).to(dtype)}, tmp_path / "m.safetensors"
    )
    reader = TensorReader(open_file)
    header = read_header(tmp_path / "m.safetensors")
    reader.check_finite(header["before"])
    reader.check_finite(header["none"])
    if not bad:
        reader.check_finite(header["weight"])
        return
    with pytest.raises(FloatingPointError, match=f"^weight holds {bad} values that are not finite, of 45;"):
        reader.check_finite(header["weight"])
