"""`secateur-service presets`: the corpora with a short name, and whether the hub has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from secateur._redaction import redact_text
from secateur._terminal import clean, say, write
from secateur_service.calibration.presets import Preset, presets
from secateur_service.errors import TransientError
from secateur_service.settings import Settings
from secateur_service.sources import ReferenceRefusedError, Sources, open_sources
from secateur_service.sources.reference import HubReference

_MOST_NAMED = 20


def list_presets(settings: Settings, names: Sequence[str], *, check: bool) -> int:
    """Print presets; returns the exit code: 2 for an unknown name, 1 if the hub lacks something.

    Args:
        settings: the hub's endpoint and our account there.
        names: which presets; empty for all.
        check: whether to ask the hub.
    """
    unknown = [name for name in names if name not in presets()]
    if unknown:
        say(clean(f"no such preset: {', '.join(unknown)}; there are {', '.join(presets())}"))
        return 2
    sources = open_sources(settings, everywhere=True) if check else None
    whole = True
    for name in names or presets():
        preset = presets()[name]
        write("\n".join(_described(preset)), stream=sys.stdout)
        if sources is not None:
            faults = list(_faults(preset, sources))
            said = "\n".join(clean(redact_text(f"  PROBLEM    {fault}")) for fault in faults)
            write(said or "  the hub has all of them", stream=sys.stdout)
            whole = whole and not faults
    return 0 if whole else 1


def _described(preset: Preset) -> Iterator[str]:
    yield f"{preset.name}: {preset.title}"
    yield f"  data set   hf://datasets/{preset.repository}, split {preset.split}, field {preset.text_field}"
    gated = "; gated: accept its terms, and set SECATEUR_HUB_TOKEN" if preset.gated else ""
    yield f"  license    {preset.license}{gated}"
    yield f"  table      {preset.source}; verified: {'yes' if preset.verified else 'no'}"
    yield f"  languages  {len(preset.configurations)}: {' '.join(preset.configurations)}"


def _faults(preset: Preset, sources: Sources) -> Iterator[str]:
    """What the hub lacks of a preset."""
    place = HubReference("dataset", preset.repository, None)
    try:
        found = sources.hub(place).describe(place)
    except (ReferenceRefusedError, TransientError) as error:
        yield str(error)
        return
    if found.configurations is None:
        yield f"the card of {place} at {found.commit} names no configurations; they cannot be checked"
        return
    absent = sorted(set(preset.configurations.values()) - found.configurations)
    if absent:
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        yield f"{place} at {found.commit} has no configuration {', '.join(absent[:_MOST_NAMED])}{more}"
