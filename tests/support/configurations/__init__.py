"""Configurations of tiny models, by architecture and, after a blank, variant; in files as the architectures are.

What makes each different is turned on: soft-caps, sliding windows, rotary scaling, biases, norms, parallel blocks, tied
and projected heads, dense blocks among mixtures of experts.
"""

from typing import Any

from support.configurations import dense, later, mixtures, wide

CONFIGS: dict[str, dict[str, Any]] = {**dense.CONFIGS, **later.CONFIGS, **wide.CONFIGS, **mixtures.CONFIGS}
