"""Generate the PrometheusRule of deploy/kustomize from deploy/monitoring/alerts.yml; `--check` fails if it drifted.

Kustomize accepts no file from outside its folder, and the operator accepts no plain rule file. So the same rules exist
in two files, one of them written by hand.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES = DEPLOY / "monitoring" / "alerts.yml"
GENERATED = DEPLOY / "kustomize" / "components" / "monitoring" / "prometheus-rule.yaml"
HEAD = """\
# Generated from deploy/monitoring/alerts.yml by scripts/generate_prometheus_rule.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: secateur
  labels:
    app.kubernetes.io/name: secateur
    app.kubernetes.io/part-of: secateur
spec:
"""


def main() -> int:
    """Write the file, or with `--check` report whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 if the file has drifted")
    given = parser.parse_args()
    wanted = HEAD + textwrap.indent(RULES.read_text(encoding="utf-8"), "  ")
    if not given.check:
        GENERATED.write_text(wanted, encoding="utf-8")
    elif GENERATED.read_text(encoding="utf-8") != wanted:
        print(f"{GENERATED} has drifted from {RULES}: run scripts/generate_prometheus_rule.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
