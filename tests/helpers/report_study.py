"""A study as a run leaves it: derivatives, figures, record; and a strict reader of pages."""

import json
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

from neuroferry.bids.outputs import write_dataset_description
from neuroferry.engine.record import RunRecord
from neuroferry.interfaces.draw.mosaic import View, draw_mosaic
from neuroferry.interfaces.draw.slices import AXIAL, Row, Volume, whole_box
from neuroferry.judgement.metric_table import metric_table

DESCS = ("conform", "bias", "brain", "tissues", "norm")
BOLD_DESCS = ("carpetplot", "motion", "rois", "tsnr", "compcorvar", "confoundcorr")
METHODS = """Images were processed by *a workflow* [@nipype; @bids].

Bias was corrected [@tustison2010], brains found by chance [@unheardof],
see doi:10.1371/journal.pone.0184661.
"""


def small_figure():
    """A real figure: two views of a tiny image."""
    import numpy as np

    from neuroferry.interfaces.draw.mosaic import grey

    data = np.linspace(0, 1, 512).reshape(8, 8, 8)
    return draw_mosaic(
        Volume(data, np.eye(4)),
        [View("Before", grey(data, 1)), View("After", grey(data, 0.5))],
        [Row(AXIAL, (2, 4), 2)],
        whole_box(data.shape),
        title="A picture",
        description="Two views",
    )


class Study:
    """Writes what the pages are made from."""

    def __init__(self, root):
        self.raw = root / "raw data"
        self.out = root / "out"
        self.raw.mkdir()
        (self.raw / "dataset_description.json").write_text(
            '{"Name": "s", "BIDSVersion": "1.10.0"}'
        )
        write_dataset_description(self.out, bids_dir=self.raw, version="1.2.3")
        self.run_dir = self.out / "logs" / "20260102T030405Z-1"
        self.record = RunRecord(self.run_dir / "events.jsonl")
        self.figure = small_figure()

    def start(self, *subjects, **values):
        facts = {
            "run_id": self.run_dir.name,
            "version": "1.2.3",
            "image": "sha256:abc",
            "command": "neuroferry /bids /out participant --mem '8 GB'",
            "steps": 3,
            "host": "a-laptop",
            "n_procs": 2,
            "memory_gb": 7.5,
            "plugin": "MultiProc",
        }
        self.record.write("run_started", subjects=list(subjects), **{**facts, **values})
        (self.run_dir / "config.toml").write_text("[workflow]\nrandom_seed = 4711\n")
        for subject in subjects:
            (self.run_dir / f"methods_sub-{subject}.md").write_text(METHODS)

    def step(self, subject, name, event="step_done", **values):
        step = f"neuroferry_wf.sub_{subject}_wf.anatomy_wf.anat_wf.{name}"
        self.record.write("step_started", step=step, subject=subject, n_procs=1, mem_gb=1.0)
        done = {"seconds": 12.5, "cpu_seconds": 11.0, "peak_gb": 0.75, "mem_gb": 1.0}
        self.record.write(
            event, step=step, subject=subject, **(values or {**done, "cached": False})
        )
        return step

    def add(self, subject, session=None, *, brain=None, metrics=None, figures=DESCS, run=None):
        """Write one session's derivatives, figures and input."""
        import nibabel as nb
        import numpy as np

        name = f"sub-{subject}" + (f"_ses-{session}" if session else "")
        folder = f"sub-{subject}" + (f"/ses-{session}" if session else "") + "/anat"
        image = self.raw / folder / f"{name}_T1w.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        affine = np.diag([-1.0, 1.5, 2.0, 1.0])
        nb.save(nb.Nifti1Image(np.zeros((6, 7, 8), np.int16), affine), image)
        sidecar = {
            "MagneticFieldStrength": 3,
            "RepetitionTime": 2.3,
            "Manufacturer": "Some & Sons",
        }
        image.with_name(f"{name}_T1w.json").write_text(json.dumps(sidecar))
        anat = self.out / folder
        anat.mkdir(parents=True, exist_ok=True)
        (anat / f"{name}_desc-preproc_T1w.nii.gz").write_bytes(b"0" * 2048)
        source = f"bids:raw:{image.relative_to(self.raw).as_posix()}"
        preproc = {"Description": "T1w image, corrected", "Sources": [source]}
        (anat / f"{name}_desc-preproc_T1w.json").write_text(json.dumps(preproc))
        score = {"confidence": 0.93, "verdict": "good", "volume_ml": 1400.4, "reasons": []}
        mask = {"Description": "Brain mask", "BrainExtraction": {**score, **(brain or {})}}
        (anat / f"{name}_desc-brain_mask.json").write_text(json.dumps(mask))
        values = dict.fromkeys(metric_table(), 0.5) | {"wm2max": 0.7} | (metrics or {})
        iqms = f"{name}{f'_run-{run}' if run else ''}_desc-iqms_T1w.json"
        undefined = {"qi_1": "There is no air in this image."}
        document = {**values, "provenance": {"warnings": {"undefined": undefined}}}
        (anat / iqms).write_text(json.dumps(document))
        pictures = self.out / f"sub-{subject}" / "figures"
        pictures.mkdir(exist_ok=True)
        for desc in figures:
            (pictures / f"{name}_desc-{desc}_T1w.svg").write_text(self.figure)

    def add_bold(
        self, subject, labels="task-rest", *, session=None, figures=BOLD_DESCS, summary=None
    ):
        """Write one BOLD run's input, table, pictures and summary."""
        import nibabel as nb
        import numpy as np

        root = f"sub-{subject}" + (f"/ses-{session}" if session else "") + "/func"
        name = "_".join(filter(None, [f"sub-{subject}", session and f"ses-{session}", labels]))
        image = self.raw / root / f"{name}_bold.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        nb.save(nb.Nifti1Image(np.zeros((6, 7, 8, 9), np.int16), np.eye(4)), image)
        image.with_name(f"{name}_bold.json").write_text('{"RepetitionTime": 2.5}')
        func = self.out / root
        func.mkdir(parents=True, exist_ok=True)
        (func / f"{name}_desc-preproc_bold.nii.gz").write_bytes(b"0" * 1024)
        source = f"bids:raw:{image.relative_to(self.raw).as_posix()}"
        (func / f"{name}_desc-preproc_bold.json").write_text(json.dumps({"Sources": [source]}))
        (func / f"{name}_desc-confounds_timeseries.tsv").write_text("trans_x\n0\n")
        pictures = self.out / f"sub-{subject}" / "figures"
        pictures.mkdir(exist_ok=True)
        for desc in figures:
            (pictures / f"{name}_desc-{desc}_bold.svg").write_text(self.figure)
        content = {
            "NumberOfVolumes": 156,
            "RepetitionTime": 2.0,
            "NonSteadyStateVolumes": 2,
            "FramewiseDisplacement": {"Mean": 0.142, "Median": 0.1, "Maximum": 1.3},
            "MotionOutliers": {"Volumes": [60, 61]},
            "MedianTSNR": 68.7,
            "CompCor": {"WM": {"NumberOfComponents": 34}, "CSF": {"NumberOfComponents": 0}},
        }
        path = pictures / f"{name}_desc-summary_bold.json"
        path.write_text(json.dumps({**content, **(summary or {})}))

    def end(self, exit_code=0):
        self.record.write("run_ended", exit_code=exit_code, reason=None)

    def whole(self, subject="01", **values):
        """One participant that came out well."""
        self.start(subject)
        self.step(subject, "correct_bias")
        self.step(subject, "extract_brain")
        self.add(subject, **values)
        self.end()
        return self


BREAKS = {"br", "li", "p", "div", "dt", "dd", "td", "th", "tr", "h1", "h2", "h3", "text"}
VOID = {"meta", "link", "br", "img", "input", "hr"}
ATTRIBUTES_THAT_LOAD = ("src", "srcset", "data", "poster", "action", "background", "xlink:href")


class Page(HTMLParser):
    """Reads a page strictly: tags that match, names that are unique, text by element."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.raw = path.read_text(encoding="utf-8")
        self.stack: list[str] = []
        self.errors: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: Counter[str] = Counter()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.text_of: dict[str, list[str]] = {}
        self.feed(self.raw)
        self.close()
        self.errors += [f"<{tag}> is never closed" for tag in self.stack]
        css = " ".join(self.text_of.get("style", []))
        self.loads += re.findall(r"url\(\s*['\"]?(?!#)([^)]*)\)|(@import)", css)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if len(attributes) != len(attrs):
            self.errors.append(f"<{tag}> has an attribute twice")
        self.tags.append((tag, attributes))
        if "id" in attributes:
            self.ids[attributes["id"]] += 1
        for name in ATTRIBUTES_THAT_LOAD:
            if name in attributes:
                self.loads.append(attributes[name])
        if "href" in attributes:
            (self.links if tag == "a" else self.loads).append(attributes["href"])
        for name in attributes:
            if name.startswith("on"):
                self.errors.append(f"<{tag}> carries a script in {name}")
        if tag in BREAKS:
            self.handle_data(" ")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack[-1] != tag:
            self.errors.append(f"</{tag}> closes {self.stack[-1:]}")
        else:
            self.stack.pop()

    def handle_data(self, data):
        for tag in set(self.stack):
            self.text_of.setdefault(tag, []).append(data)

    def text(self, tag="main"):
        return " ".join("".join(self.text_of.get(tag, [])).split())

    def having(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]


def check_page(path):
    """Assert what every page must be, and give it for further checks."""
    page = Page(path)
    assert page.errors == []
    assert [name for name, count in page.ids.items() if count > 1] == []
    assert all(load.startswith(("data:", "#")) for load in page.loads), page.loads
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert [anchor for anchor in anchors if anchor not in page.ids] == []
    policy = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[0]["content"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels
    assert page.having("html")[0]["lang"] == "en"
    for _, attributes in (t for t in page.tags if t[0] == "svg"):
        assert attributes.get("aria-label"), attributes
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes.get("alt")
        if tag == "th":
            assert attributes.get("scope"), attributes
        if tag == "button":
            assert attributes.get("type") == "button"
    return page
