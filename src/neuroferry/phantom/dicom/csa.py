"""Siemens' private header of an image: a table of named values, in its second form, ``SV10``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MARK = 77
_LEAST_ITEMS = 6  # Siemens writes empty items up to this number
_TYPES = {"IS": 6, "DS": 3, "FD": 4, "CS": 16, "LO": 20, "SH": 22}


def csa_header(values: Mapping[str, tuple[str, Sequence[float | str]]]) -> bytes:
    """Write a table of named values.

    Parameters
    ----------
    values : mapping of str to (str, sequence)
        Name to value representation (``IS``, ``DS``, ``FD``, ``CS``, ``LO``, ``SH``) and values,
        of which there may be none.

    Returns
    -------
    bytes
        Content of (0029,xx10) or (0029,xx20).

    References
    ----------
    The layout is described by NiBabel, https://nipy.org/nibabel/dicom/siemens_csa.html
    """
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(values), _MARK)]
    for name, (kind, content) in values.items():
        texts = [_text(kind, value) for value in content]
        n_items = max(_LEAST_ITEMS, len(texts)) if texts else 0
        code = _TYPES[kind]
        parts.append(
            struct.pack(
                "<64si4s3i", name.encode(), len(texts), kind.encode(), code, n_items, _MARK
            )
        )
        for text in texts + [b""] * (n_items - len(texts)):
            parts.append(struct.pack("<4i", len(text), len(text), _MARK, len(text)))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts) + bytes(-sum(map(len, parts)) % 4)


def _text(kind: str, value: float | str) -> bytes:
    if isinstance(value, str):
        return value.encode() + b"\0"
    return (f"{value:.0f}" if kind == "IS" else f"{value:.8f}").encode() + b"\0"
