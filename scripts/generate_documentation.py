"""Write the pages of docs/ that come from the code; `--check` fails if one has drifted.

python scripts/generate_documentation.py [--check]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Before typer is imported: no page may depend on a terminal.
os.environ |= {"TERMINAL_WIDTH": "1000", "COLUMNS": "1000"}

from documentation import commands, costs, models, sdk, settings  # noqa: E402 - see above

PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands.page,
    "costs.md": costs.page,
    "models.md": models.page,
    "sdk.md": sdk.page,
    "settings.md": settings.page,
}


def main() -> None:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a page has drifted")
    options = parser.parse_args()
    for name, page in PAGES.items():
        path = ROOT / "docs" / name
        content = page()
        if not options.check:
            path.write_text(content, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != content:
            sys.exit(f"docs/{name} has drifted from the code; run `make docs`")


if __name__ == "__main__":
    main()
