"""Names of the host's folders, for what users read: inside the image they have other names.

The launcher binds folders under names that never change, such as ``/out``, and passes the host's
names in ``NEUROFERRY_HOST_FOLDERS``.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TextIO

_VARIABLE = "NEUROFERRY_HOST_FOLDERS"
# the temporary folder is bound as well, and has the same name in most cases
_SAME = ("/tmp",)


def in_host_words(text: str, environ: Mapping[str, str] | None = None) -> str:
    r"""Replace the image's names of folders in a text by the host's.

    Examples
    --------
    >>> words = base64.b64encode(b"/bids=/data/my study\n/out=/home/me/out\n").decode()
    >>> in_host_words("/bids/x.json, /out; not /outer", {"NEUROFERRY_HOST_FOLDERS": words})
    '/data/my study/x.json, /home/me/out; not /outer'
    """
    folders = _folders((os.environ if environ is None else environ).get(_VARIABLE, ""))
    if not folders:
        return text
    names = "|".join(re.escape(name) for name in sorted(folders, key=len, reverse=True))
    return re.sub(
        rf"(?<![\w./~-])(?:{names})(?![\w-])", lambda match: folders[match.group()], text
    )


@cache
def _folders(value: str) -> dict[str, str]:
    """Read the launcher's words, INSIDE=HOST, one a line."""
    try:
        lines = base64.b64decode(value).decode().splitlines()
    except ValueError:
        return {}
    pairs = (line.replace("\\n", "\n").replace("\\\\", "\\").partition("=") for line in lines)
    return {inside: host for inside, _, host in pairs if host and inside not in _SAME}


class HostWords:
    """Stream that writes the host's names of folders in place of the image's.

    Parameters
    ----------
    stream : file
        Where the text goes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(in_host_words(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
