"""Metrics of anatomical images by the quick path, against those of the anatomical workflow.

The quick path measures an image without registration to convergence. Its metrics are compared with
those of the steps of the anatomical workflow on the same image: phantoms, whole and degraded, and
the images given as arguments. Values of the anatomical workflow that exist in the output folder
are not computed again (two to four minutes of one processor for each image).

    python benchmarks/qc_quick.py OUTPUT_DIR [T1W ...] --table qc_quick.rst
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np

TARGETS = {"cjv": 5.0, "cnr": 5.0, "snr_total": 5.0, "wm2max": 5.0, "efc": 5.0, "fber": 5.0}
"""Largest accepted difference, in percent, of metrics that ratings rest on."""


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(interface: Any, folder: Path, seconds: dict[str, float], **inputs: Any) -> Any:
    """Run an interface in a folder of its own and note its processor seconds."""
    name = interface.__name__
    begin = time.process_time()
    with inside(folder / name):
        done = interface(**inputs).run()
    seconds[name] = round(time.process_time() - begin, 1)
    return done.outputs


def full(image: Path, folder: Path) -> dict[str, Any]:
    """Compute the metrics as the anatomical workflow does."""
    from neuroferry.interfaces.anat.average import AverageRuns
    from neuroferry.interfaces.anat.brain import ExtractBrain
    from neuroferry.interfaces.anat.normalise import Normalise
    from neuroferry.interfaces.anat.segment import SegmentTissues
    from neuroferry.interfaces.image.bias import CorrectBias
    from neuroferry.interfaces.qc.metrics import AnatIQMs

    folder = folder / "full"
    written = folder / "AnatIQMs" / "iqms.json"
    if not written.exists():
        seconds: dict[str, float] = {}
        head = run(AverageRuns, folder, seconds, t1w=[str(image)])
        brain = run(ExtractBrain, folder, seconds, in_file=head.t1w_ref)
        flat = run(CorrectBias, folder, seconds, in_file=head.t1w_ref, in_mask=brain.out_mask)
        norm = run(
            Normalise,
            folder,
            seconds,
            in_file=flat.out_file,
            in_mask=brain.out_mask,
            start=brain.std2anat_affine,
        )
        tissues = run(
            SegmentTissues,
            folder,
            seconds,
            in_file=flat.out_file,
            in_mask=brain.out_mask,
            std2anat_xfm=norm.std2anat_xfm,
        )
        run(
            AnatIQMs,
            folder,
            seconds,
            source=str(image),
            t1w=head.t1w_runs[0] if isinstance(head.t1w_runs, list) else head.t1w_runs,
            run2ref_xfm=head.run2ref_xfms[0]
            if isinstance(head.run2ref_xfms, list)
            else head.run2ref_xfms,
            bias_field=flat.bias_field,
            brain_mask=brain.out_mask,
            dseg=tissues.dseg,
            tpms=tissues.tpms,
            std2anat_xfm=norm.std2anat_xfm,
        )
        (folder / "seconds.json").write_text(json.dumps(seconds))
    return {
        "metrics": json.loads(written.read_text()),
        "seconds": json.loads((folder / "seconds.json").read_text()),
    }


def ghosted(data: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift the head between lines of k-space, along the second axis: ghosts and blur."""
    spectrum = np.fft.fft(data, axis=1)
    lines = np.fft.fftfreq(data.shape[1])[None, :, None]
    shift = (
        3.0 * np.sin(2 * np.pi * np.arange(data.shape[1]) / 9) * (rng.random(data.shape[1]) < 0.3)
    )
    return np.abs(
        np.fft.ifft(spectrum * np.exp(-2j * np.pi * lines * shift[None, :, None]), axis=1)
    )


def degraded(t1w: Path, truth: dict[str, Path], folder: Path) -> list[Path]:
    """Write bad versions of a phantom: noisy, with motion, shaded, stripped."""
    image: Any = nb.load(t1w)
    data = np.asarray(image.dataobj, dtype=np.float32)
    bias = np.asarray(nb.load(truth["bias"]).dataobj, dtype=np.float32)
    brain = np.asarray(nb.load(truth["brain_mask"]).dataobj) > 0
    rng = np.random.default_rng(1)
    level = float(np.median(data[brain]))
    noise = level / 7 * rng.standard_normal((2, *data.shape), dtype=np.float32)
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "noisy": lambda: np.hypot(data + noise[0], noise[1]),
        "motion": lambda: ghosted(data, rng),
        "shaded": lambda: data * bias,
        "stripped": lambda: np.where(brain, data, 0),
    }
    written = []
    for kind, make in kinds.items():
        path = folder / f"phantom_{kind}_T1w.nii.gz"
        if not path.exists():
            nb.save(nb.Nifti1Image(np.rint(make()).astype(np.int16), image.affine), path)
        written.append(path)
    return written


def quick(image: Path, folder: Path) -> dict[str, Any]:
    """Compute the metrics as the quick path does."""
    from neuroferry.interfaces.anat.quick import FindAnatomy, SegmentQuickly
    from neuroferry.interfaces.qc.head_regions import FindRegions
    from neuroferry.interfaces.qc.metrics import AnatIQMs

    folder = folder / "quick"
    seconds: dict[str, float] = {}
    found = run(FindAnatomy, folder, seconds, in_file=str(image))
    same = {name: getattr(found, name) for name in ("bias_field", "brain_mask", "std2anat_xfm")}
    tissues = run(
        SegmentQuickly,
        folder,
        seconds,
        in_file=found.preproc,
        in_mask=found.brain_mask,
        priors=found.priors,
    )
    regions = run(FindRegions, folder, seconds, in_file=found.image, **same)
    done = run(
        AnatIQMs,
        folder,
        seconds,
        source=str(image),
        t1w=found.image,
        dseg=tissues.dseg,
        tpms=tissues.tpms,
        template_tpms=found.priors,
        found_regions=regions.regions,
        brain_score=found.brain_score,
        tissue_report=tissues.report,
        **same,
    )
    return {"metrics": json.loads(Path(done.iqms).read_text()), "seconds": seconds}


def table(results: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Show the difference of each metric in percent, for each image."""
    names = sorted(
        name
        for name, value in next(iter(results.values()))[0]["metrics"].items()
        if isinstance(value, int | float) and not name.startswith(("size", "spacing"))
    )
    lines = [", ".join(["metric", *results, "median"])]
    for name in names:
        shares = []
        for whole, short in results.values():
            one, other = whole["metrics"].get(name), short["metrics"].get(name)
            known = isinstance(one, int | float) and isinstance(other, int | float) and one
            shares.append(100 * (other / one - 1) if known else math.nan)
        known_shares = [share for share in shares if not math.isnan(share)]
        middle = statistics.median(known_shares) if known_shares else math.nan
        cells = ["n/a" if math.isnan(v) else f"{v:+.1f}" for v in (*shares, middle)]
        lines.append(", ".join([name, *cells]))
    seconds = [
        f"{sum(short['seconds'].values()):.0f} of {sum(whole['seconds'].values()):.0f}"
        for whole, short in results.values()
    ]
    lines.append(", ".join(["processor seconds", *seconds, ""]))
    title = ".. csv-table:: Quick path against the anatomical workflow, difference in percent"
    return title + "\n   :header-rows: 1\n\n   " + "\n   ".join(lines) + "\n"


def main() -> int:
    """Measure every image both ways and print the table; fail where a target is missed."""
    from neuroferry.errors import InputError
    from neuroferry.phantom import write_phantom_dataset

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path, help="new or existing folder")
    parser.add_argument("images", type=Path, nargs="*", help="T1w images")
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    out = arguments.out_dir.absolute()
    phantom = write_phantom_dataset(
        out / "phantoms", subjects=1, resolution=1.0, seed=0, overwrite=True
    )[0]
    images = [phantom.t1w, *degraded(phantom.t1w, dict(phantom.truth), out)]
    results = {}
    for image in [*images, *(path.absolute() for path in arguments.images)]:
        own = image in images
        name = ("phantom_" if own else "") + image.name.split("_T1w")[0].removeprefix("phantom_")
        try:
            results[name] = (full(image, out / name), quick(image, out / name))
        except InputError as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
    text = table(results)
    sys.stdout.write(text)
    if arguments.table:
        arguments.table.write_text(text, encoding="utf-8")
    missed = [
        f"{name}: {metric}"
        for name, (whole, short) in results.items()
        for metric, most in TARGETS.items()
        if whole["metrics"].get(metric) is not None
        and abs(short["metrics"][metric] / whole["metrics"][metric] - 1) > most / 100
    ]
    sys.stderr.write("".join(f"missed: {line}\n" for line in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
