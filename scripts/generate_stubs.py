"""Generate the Python stubs in client/secateur/v1; `--check` fails if they have drifted.

    python scripts/generate_stubs.py [--check] [--freeze]

Generated code refuses every protobuf and grpcio older than its generator, although it runs with versions years older.
The check is removed, and a test runs the SDK with the oldest versions that pyproject.toml allows.

`--freeze` also replaces proto/secateur/v1/frozen.binpb, the descriptor set that the breaking-change test compares with.
"""

from __future__ import annotations

import argparse
import re
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


# The import that only the check needs, and the check; in the gRPC stubs, everything between the imports and the first
# class.
_PROTOBUF_CHECK = re.compile(r"_runtime_version\.ValidateProtobufRuntimeVersion\(.*?\n\)\n", re.DOTALL)
_PROTOBUF_IMPORT = "from google.protobuf import runtime_version as _runtime_version\n"
_GRPC_CHECK = re.compile(r"GRPC_GENERATED_VERSION = .*?\n    \)\n", re.DOTALL)
_GRPC_IMPORT = "import warnings\n"


def _for_older_runtimes(content: str, name: str) -> str:
    """Generated code without its runtime version check.

    Raises:
        SystemExit: the generator now writes the check differently.
    """
    if name.endswith(".pyi"):
        return content
    is_grpc = name.endswith("_grpc.py")
    check, line = (_GRPC_CHECK, _GRPC_IMPORT) if is_grpc else (_PROTOBUF_CHECK, _PROTOBUF_IMPORT)
    found = check.search(content)
    if found is None or line not in content:
        sys.exit(f"{name} checks the version of its runtime in a way that this script does not know")
    return content.replace(found[0], "").replace(line, "", 1)


def main() -> None:
    """Generate the stubs, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the stubs have drifted")
    parser.add_argument("--freeze", action="store_true", help="also renew the frozen descriptor set")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _run(f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}")
        for generated in sorted((Path(folder) / "secateur" / "v1").iterdir()):
            target = STUBS / generated.name
            content = _for_older_runtimes(generated.read_text(encoding="utf-8"), generated.name)
            if not options.check:
                target.write_text(content, encoding="utf-8")
            elif not target.exists() or target.read_text(encoding="utf-8") != content:
                sys.exit(f"{target.relative_to(ROOT)} has drifted from its .proto; run `make proto`")
    if options.freeze:
        _run(f"--descriptor_set_out={FROZEN}", "--include_imports")


if __name__ == "__main__":
    main()
