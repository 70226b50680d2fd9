"""Generate the Python stubs in client/secateur/v1 and print the folder; `--check` fails where they have drifted.

    python scripts/generate_stubs.py [--check] [--freeze]

`--freeze` also replaces proto/secateur/v1/frozen.binpb, the descriptor set that the breaking-change test compares with.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
STUBS = ROOT / "client" / "secateur" / "v1"
FROZEN = PROTO / "secateur" / "v1" / "frozen.binpb"


def _run(*arguments: str) -> None:
    includes = [f"-I{PROTO}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    if protoc.main(["protoc", *includes, *arguments, *sources]) != 0:
        raise SystemExit(1)


def main() -> None:
    """Generate, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the stubs have drifted")
    parser.add_argument("--freeze", action="store_true", help="also renew the frozen descriptor set")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _run(f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}")
        for generated in sorted((Path(folder) / "secateur" / "v1").iterdir()):
            target = STUBS / generated.name
            if not options.check:
                target.write_bytes(generated.read_bytes())
            elif not target.exists() or not filecmp.cmp(generated, target, shallow=False):
                sys.exit(f"{target.relative_to(ROOT)} has drifted from its .proto; run `make proto`")
    if options.freeze:
        _run(f"--descriptor_set_out={FROZEN}", "--include_imports")


if __name__ == "__main__":
    main()
