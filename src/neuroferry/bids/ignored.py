"""Files that a dataset's ``.bidsignore`` names: the user's word that they are not part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


class Ignored:
    """Patterns of ``.bidsignore``, in the syntax of ``.gitignore``.

    Examples
    --------
    >>> ignored = Ignored(["old/", "*_T1w_raw.*", "/sub-03/extra*", "!sub-01/keep/old/"])
    >>> [path in ignored for path in ("sub-01/anat/old/x.nii.gz", "sub-01/anat/older/x.nii.gz")]
    [True, False]
    >>> "sub-01/keep/old/x.nii.gz" in ignored
    False
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._rules = [_rule(line) for line in map(str.strip, lines) if line and line[0] != "#"]

    @classmethod
    def of(cls, root: Path) -> Ignored:
        """Read those of a dataset; none if it has no such file, or one that cannot be read."""
        try:
            text = (root / ".bidsignore").read_text(encoding="utf-8-sig", errors="replace")
        except OSError:
            text = ""
        return cls(text.splitlines())

    def __contains__(self, path: str) -> bool:
        """Check a file, by its path below the root with slashes; the last rule wins."""
        result = False
        for pattern, ignore in self._rules:
            if pattern.fullmatch(path):
                result = ignore
        return result


def _rule(line: str) -> tuple[re.Pattern[str], bool]:
    ignore = not line.startswith("!")
    text = line.removeprefix("!")
    folder, text = text.endswith("/"), text.rstrip("/")
    start = "" if "/" in text else "(?:.*/)?"
    # re.sub would take the backslashes of the pieces for its own
    pieces = re.split(r"(\*\*/|/\*\*|\*|\?|\[[^]]+\])", text.lstrip("/"))
    wild = {"**/": "(?:.*/)?", "/**": "/.*", "*": "[^/]*", "?": "[^/]"}
    middle = "".join(
        wild.get(p) or (f"[{p[1:-1].replace('!', '^', 1)}]" if p[:1] == "[" else re.escape(p))
        for p in pieces
    )
    end = "/.*" if folder else "(?:/.*)?"
    try:
        return re.compile(f"{start}{middle}{end}"), ignore
    except re.error:  # such as a range of characters that runs backwards
        return re.compile(f"{start}{re.escape(text.lstrip('/'))}{end}"), ignore
