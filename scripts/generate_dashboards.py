"""Generate the Grafana dashboards of deploy/monitoring from scripts/dashboards; `--check` fails if they drifted."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import operators, owners

FOLDER = Path(__file__).parents[1] / "deploy" / "monitoring" / "grafana" / "dashboards"


def main() -> int:
    """Write the files, or with `--check` report whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if a file has drifted")
    given = parser.parse_args()
    drifted = False
    for module in (operators, owners):
        path = FOLDER / f"{module.__name__.rpartition('.')[2]}.json"
        wanted = json.dumps(module.build(), cls=JSONEncoder, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
        if not given.check:
            path.write_text(wanted, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != wanted:
            print(f"{path} has drifted: run scripts/generate_dashboards.py", file=sys.stderr)
            drifted = True
    return int(drifted)


if __name__ == "__main__":
    sys.exit(main())
