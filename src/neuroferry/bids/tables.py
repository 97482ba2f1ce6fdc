"""Tables of a dataset, such as ``participants.tsv`` and events: the one reader of them.

BIDS tables are tab-separated without quoting, so a quotation mark is a character like any other.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from neuroferry.files import read_input

MISSING = ("", "n/a")
#: What separates the columns of a table that is no table of BIDS, and how to call it.
_SEPARATORS = {",": "commas", ";": "semicolons", " ": "spaces"}
_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\r|\n|\Z)")
_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class Table:
    r"""A table of text, whose rows are taken apart one at a time.

    Attributes
    ----------
    columns : tuple of str
        Names of the columns, from the first line.
    notes : tuple of str
        What is odd about it, in clauses.

    Examples
    --------
    >>> table = parse_table('onset\tname\n1\t"a\n2\tn/a\n')
    >>> table.columns, list(table.rows())
    (('onset', 'name'), [(2, ['1', '"a']), (3, ['2', 'n/a'])])
    """

    columns: tuple[str, ...]
    text: str
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield line number, from 1, and cells of each row; missing cells are empty."""
        width = len(self.columns)
        for number, line in _lines(self.text):
            if number > 1 and line.strip():
                cells = [cell.strip(" ") for cell in line.split("\t")]
                yield number, [*cells, *[""] * (width - len(cells))][:width]

    def column(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield line number and cell of each row in one column."""
        place = self.columns.index(name)
        yield from ((number, cells[place]) for number, cells in self.rows())


def read_table(path: Path) -> Table:
    """Read a table, whatever the file holds.

    Text that is not UTF-8 is read as UTF-16 if it begins like that, as spreadsheets write it,
    and else as Latin-1.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    raw = read_input(path)
    notes = []
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = raw.decode("utf-16", "replace")
        notes.append("it is UTF-16 text: save it as UTF-8")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
            notes.append("it is not UTF-8 text and is read as Latin-1: save it as UTF-8")
    table = parse_table(text)
    return Table(table.columns, table.text, (*notes, *table.notes))


def parse_table(text: str) -> Table:
    """Take the first line of a table apart, and note what is odd about the others."""
    first = next((line for _, line in _lines(text)), "")
    columns = tuple(cell.strip(" ") for cell in first.split("\t")) if first.strip() else ()
    notes = []
    other = next((sign for sign in _SEPARATORS if sign in first), None)
    if len(columns) == 1 and other:
        notes.append(f"its columns are separated by {_SEPARATORS[other]}: separate them by tabs")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        notes.append(f"it has the column {' and '.join(twice)} twice; the first is used")
    ragged, first_ragged = 0, 0
    for number, line in _lines(text):
        if columns and line.strip() and line.count("\t") + 1 != len(columns):
            ragged += 1
            first_ragged = first_ragged or number
    if ragged:
        notes.append(
            f"{ragged} of its lines do not have {len(columns)} columns, the first is line"
            f" {first_ragged}"
        )
    return Table(columns, text, tuple(notes))


def read_number(cell: str) -> float | None:
    """Read a number as tables write it; None for anything else.

    >>> read_number("1.5"), read_number("n/a"), read_number("1_000")
    (1.5, None, None)
    """
    text = cell.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers, from 1, whatever ends them."""
    for count, match in enumerate(_LINE.finditer(text), 1):
        if match.end() == len(text) and not match[0]:
            return
        yield count, match[1]
