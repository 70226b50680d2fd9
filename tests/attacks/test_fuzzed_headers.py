"""The reader of safetensors headers against damaged files, with the library as the judge.

What our reader accepts, the library accepts, with the same tensors and the same bytes; all else is refused in one way.
"""

import json
import random
import struct

import pytest
import safetensors

from attacks.mutants import mutant
from secateur_service.models import safetensors as reader

ROUNDS = 4000


def whole(rng):
    """A file as it should be: entries, and the bytes of their tensors."""
    entries, position = {}, 0
    for name in rng.sample("abcdef", rng.randint(1, 4)):
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
        dtype = rng.choice(["F32", "F16", "BF16", "U8", "I64"])
        size = reader.DTYPE_BYTES[dtype]
        for length in shape:
            size *= length
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return entries, bytearray(rng.randbytes(position))


def damaged(rng):
    """A file with up to three things wrong."""
    entries, data = whole(rng)
    length = None
    for _ in range(rng.randint(0, 3)):
        entry = rng.choice(list(entries.values()))
        number = rng.choice([-1, 0, 1, 2, 3, 4, 8, 12, 2**31, 2**62, 2**64, 0.5, True, None, "8"])
        what = rng.randrange(8)
        if what == 0:
            entry["data_offsets"][rng.randrange(2)] = number
        elif what == 1 and entry["shape"]:
            entry["shape"][rng.randrange(len(entry["shape"]))] = number
        elif what == 2:
            entry["dtype"] = rng.choice(["F32", "F64", "BOOL", "F8_E4M3", "", 7])
        elif what == 3:
            shift = rng.choice([-8, -4, 4, 8])
            entry["data_offsets"] = [bound + shift for bound in entry["data_offsets"] if isinstance(bound, int)]
        elif what == 4:
            data += rng.randbytes(rng.choice([1, 4, 8]))
        elif what == 5:
            del data[rng.randrange(len(data) + 1) :]
        elif what == 6:
            entry.pop(rng.choice(list(entry)), None)
            entry.setdefault("data_offsets", [0, 0])
            entry.setdefault("shape", [])
        else:
            length = rng.choice([0, 1, 7, 10**6, 2**31, 2**63])
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def breaks_a_promise(module, path, content):
    """Whether the reader does something that it must not."""
    path.write_bytes(content)
    try:
        found = module.read_header(path)
    except module.MalformedCheckpointError:
        return False
    except Exception:  # noqa: BLE001 - whatever it is
        return True
    try:
        expected = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError:
        return True
    ours = {
        name: (info.dtype, list(info.shape), content[info.offset : info.offset + info.size_bytes])
        for name, info in found.items()
    }
    return ours != {name: (entry["dtype"], entry["shape"], bytes(entry["data"])) for name, entry in expected.items()}


MUTANTS = {
    "the length of the header is not checked": ("if length > min(MAX_HEADER_BYTES, size - 8):", "if False:"),
    "gaps and overlaps are not noticed": ("if info.offset != end:", "if False:"),
    "only gaps are noticed": ("if info.offset != end:", "if info.offset > end:"),
    "only overlaps are noticed": ("if info.offset != end:", "if info.offset < end:"),
    "bytes behind the last tensor are not noticed": ("if end != size:", "if end > size:"),
    "missing bytes are not noticed": ("if end != size:", "if end < size:"),
    "shapes need not fit their bytes": ("if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:", "if False:"),
    "sizes may be negative": ("0 <= number <= _LARGEST", "number <= _LARGEST"),
    "sizes may be absurd": ("0 <= number <= _LARGEST", "0 <= number"),
    "sizes may be truth values": ("type(number) is int", "isinstance(number, int)"),
    "what is no JSON goes through": ("except (ValueError, TypeError, A", "except (TypeError, A"),
    "missing fields go through": ("except (KeyError, TypeError, V", "except (TypeError, V"),
}


def first_break(module, path):
    rng = random.Random(7)
    return next((n for n in range(ROUNDS) if breaks_a_promise(module, path, damaged(rng))), None)


def test_no_damaged_file_makes_the_reader_break_a_promise(tmp_path):
    assert first_break(reader, tmp_path / "fuzzed.safetensors") is None


def test_the_files_are_damaged_and_whole_in_equal_parts(tmp_path):
    rng, accepted = random.Random(7), 0
    for _ in range(500):
        path = tmp_path / "fuzzed.safetensors"
        path.write_bytes(damaged(rng))
        try:
            reader.read_header(path)
        except reader.MalformedCheckpointError:
            continue
        accepted += 1
    assert 100 < accepted < 400


@pytest.mark.parametrize("name", MUTANTS)
def test_a_reader_without_one_of_its_checks_is_found_out(tmp_path, name):
    assert first_break(mutant(reader, *MUTANTS[name]), tmp_path / "fuzzed.safetensors") is not None
