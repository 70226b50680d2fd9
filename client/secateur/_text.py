"""Text for people: columns, lists, numbers, sizes, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from secateur._terminal import clean

_SCIENTIFIC_FROM = 10_000


def columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows in aligned columns, the first being their titles; the columns in `right` are aligned right."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cleaned, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cleaned
    )
    return "\n".join(line.rstrip() for line in lines)


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def grouped(reasons: Mapping[str, str], most: int = 2) -> list[tuple[str, str]]:
    """Names that have one reason together, as a list in words, and the reason.

    Args:
        reasons: By name.
        most: Names that are told of each group, unless one more completes it.
    """
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return [(listed(_first(names, most)), reason) for reason, names in groups.items()]


def _first(names: Sequence[str], most: int) -> Sequence[str]:
    more = len(names) - most
    return [*names[:most], f"{more} others"] if more > 1 else names


def digits(value: float, decimals: int = 2, *, sign: str = "-") -> str:
    """A number with at most four significant digits, so that it fits anywhere: 1.45, 1,446, 2.62e7.

    Args:
        value: The number.
        decimals: The most digits after the point.
        sign: `+` also signs what is positive.
    """
    rounded = abs(float(f"{value:.4g}"))
    if rounded < _SCIENTIFIC_FROM:
        places = max(0, min(decimals, 4 - len(str(int(rounded)))))
        return f"{value:{sign}z,.{places}f}"
    mantissa, _, exponent = f"{value:{sign}.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def size(size_bytes: float) -> str:
    """A number of bytes for people."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.95:  # what is more is not 1000.0 of it, but 1.0 of the next
            return f"{size_bytes:.1f} {unit}"
    size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def fetched_text(done_bytes: int, total_bytes: int) -> str:
    """How much there is of how much, such as `1.2 of 5.0 GB`; of nothing where the total, 0, is unknown."""
    done, total = size(done_bytes), size(total_bytes)
    if not total_bytes:
        return done
    unit = total[total.index(" ") :]
    return f"{done.removesuffix(unit) if done.endswith(unit) else done} of {total}"


def duration(seconds: float) -> str:
    """A time span as [hours:]minutes:seconds."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def left_text(seconds: float) -> str:
    """The time left until something ends; never none while there is something to wait for."""
    return "a moment left" if seconds < 1 else f"{duration(seconds)} left"


def span(seconds: float) -> str:
    """A time span in words: 37 s, 4 min 12 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
