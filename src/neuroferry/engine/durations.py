"""Durations in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Write a duration as a person would.

    Examples
    --------
    >>> duration(0.21), duration(12.4), duration(75), duration(120), duration(7260)
    ('0.2 s', '12 s', '1 min 15 s', '2 min', '2 h 1 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(whole // 60, 60)
    return f"{hours} h {rest} min"
