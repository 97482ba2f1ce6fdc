"""File names of a phantom dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Location of a session's files.

    Attributes
    ----------
    root : Path
        The dataset.
    label : str
        Without ``sub-``.
    session : str or None
        Without ``ses-``.
    run : str
        Further entities of the files of one run, such as ``dir-PA``; may be empty.
    """

    root: Path
    label: str
    session: str | None
    run: str = ""

    @property
    def within(self) -> str:
        """Folder of the session, below the dataset."""
        return f"sub-{self.label}/ses-{self.session}" if self.session else f"sub-{self.label}"

    @property
    def prefix(self) -> str:
        """First entities of each file name."""
        names = self.within.replace("/", "_")
        return f"{names}_{self.run}" if self.run else names

    def raw(self, datatype: str, name: str) -> Path:
        """Build the path of a raw file."""
        return self.root / self.within / datatype / f"{self.prefix}_{name}"

    def truth(self, datatype: str, name: str) -> Path:
        """Build the path of a truth file."""
        folder = self.root / "derivatives" / "truth" / self.within / datatype
        return folder / f"{self.prefix}_{name}"
