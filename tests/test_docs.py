"""Pages of the documentation beside the program: the files that they list are those written."""

import re
from pathlib import Path

import pytest
from example_study import write_example_study
from other_template import write_template
from same import captured

import neuroferry
from neuroferry.bids.outputs import derivative_path
from neuroferry.cli.main import main
from neuroferry.interfaces.derivatives import DerivativesSink, LabelledSink
from neuroferry.interfaces.dwi import confounds as dwi_confounds
from neuroferry.interfaces.func import confounds as bold_confounds

DOCS = Path(neuroferry.__file__).resolve().parents[2] / "docs"
SPACE = "MNI152NLin2009aSym"
#: Pages and the headings above their tables of files.
TABLES = {
    "outputs.rst": "Anatomy of a session",
    "functional.rst": "Output files",
    "diffusion.rst": "Output files",
}
#: Parts of the names on the pages and what they stand for.
PARTS = {
    r"_<(entities|run|image)>": r"(?:_(?:task|acq|rec|dir|run|echo)-[0-9A-Za-z]+)*",
    r"<[\w ]+>": "[^_]+",
    r"\[space-…_\]": "(?:space-[^_]+_(?:res-[^_]+_)?)?",
    r"\.\.\.": ".+",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Names that the sinks of an example study give their files."""
    folder = tmp_path_factory.mktemp("docs")
    study = write_example_study(folder / "study")
    write_template(folder / "templates", 8, name="Other", cohort="1")
    arguments = [str(study), str(folder / "out"), "participant", "--dry-run"]
    arguments += ["--skip-bids-validation", "--templateflow-home", str(folder / "templates")]
    arguments += ["--output-spaces", f"{SPACE}:res-2", "Other:cohort-1", "T1w", "bold"]
    with captured() as graphs:
        assert main(arguments) == 0
    ((graph, _),) = graphs
    names = set()
    for node in graph.nodes():
        if isinstance(node.interface, DerivativesSink):
            inputs = node.inputs
            files = inputs.entities
            if isinstance(node.interface, LabelledSink):
                files = [{**inputs.entities, inputs.label_entity: "X"}]
            how = {key: getattr(inputs, key) for key in ("suffix", "extension", "datatype")}
            names |= {derivative_path(folder, file, **how).name for file in files}
    return names


def listed():
    """Give the names in the first column of the tables of files."""
    for page, heading in TABLES.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        section = text.partition(f"\n{heading}\n")[2]
        table = re.split(r"\n\n(?!   )", section.partition(".. list-table::")[2])[0]
        for cell in re.findall(r"^   \* - (.*?)^     - ", table, re.MULTILINE | re.DOTALL):
            before = ""
            for name in re.findall(r"``(.+?)``", cell):
                stem = before.partition(".")[0]
                before = stem + name if name.startswith(".") else name
                yield before


def pattern(name):
    """Turn a name on a page into an expression for the names of files.

    >>> bool(pattern("_<run>_model-{A,B}_x.txt").fullmatch("sub-1_run-2_model-B_x.txt"))
    True
    """
    text = name.rpartition("/")[2].removeprefix("…")
    text = re.sub(r"(?<!\.)\.(?!\.)", r"\\.", text)
    text = re.sub(r"\{([\w,]+)\}", lambda words: f"(?:{words[1].replace(',', '|')})", text)
    for part, meaning in PARTS.items():
        text = re.sub(part, meaning, text)
    return re.compile(rf"sub-[0-9A-Za-z]+(?:_cohort-[^_]+)?{text}")


def test_every_file_on_the_pages_is_written(written):
    names = list(listed())
    assert len(names) > 30
    assert [n for n in names if not any(map(pattern(n).fullmatch, written))] == []


def test_every_file_that_is_written_is_on_a_page(written):
    patterns = [pattern(name) for name in listed()]
    assert sorted(n for n in written if not any(p.fullmatch(n) for p in patterns)) == []


def test_every_described_confound_is_on_the_page():
    page = (DOCS / "confounds.rst").read_text(encoding="utf-8")
    bold, _, dwi = page.partition("\nDWI runs\n")
    dwi = dwi.partition("\nMethods\n")[0]
    assert [name for name in bold_confounds._ABOUT if f"``{name}``" not in bold] == []
    assert [name for name in dwi_confounds._ABOUT if f"``{name}``" not in dwi] == []
