"""Output folders with metrics of made-up scans, whose values and faults are known."""

import json
from datetime import datetime, timedelta

import numpy as np

T1W = {
    # median, spread, larger is better
    "cjv": (0.45, 0.03),
    "cnr": (3.2, 0.2),
    "snr_total": (14.0, 1.0),
    "efc": (0.6, 0.03),
    "fber": (1500.0, 120.0),
    "qi_1": (0.001, 0.0002),
    "wm2max": (0.7, 0.03),
    "inu_range": (0.3, 0.03),
    "fwhm_avg": (3.6, 0.2),
    "rpve_gm": (8.0, 0.5),
}
BOLD = {
    "fd_mean": (0.15, 0.03),
    "dvars_std": (1.1, 0.05),
    "tsnr": (60.0, 5.0),
    "efc": (0.5, 0.02),
    "snr": (5.0, 0.4),
}
FIRST = datetime(2026, 1, 5, 9, 0, 0)


def write_scan(
    out, name, values, *, meta=None, settings=None, folder=None, ours=True, md5="0" * 32
):
    """Write the metrics of one scan as we do, or as MRIQC does."""
    subject = name.split("_")[0]
    modality = name.rpartition("_")[2]
    stem = name.removesuffix(f"_{modality}")
    folder = folder or {"T1w": "anat", "T2w": "anat", "bold": "func", "dwi": "dwi"}[modality]
    session = next((part for part in name.split("_") if part.startswith("ses-")), "")
    path = (
        out / subject / session / folder / f"{stem}{'_desc-iqms' if ours else ''}_{modality}.json"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        **values,
        "bids_meta": {"modality": modality, "subject_id": subject[4:], **(meta or {})},
        "provenance": {
            "md5sum": "0" * 32,
            "settings": settings or {},
            "software": "neuroferry" if ours else "mriqc",
            "version": "0",
            "warnings": {"undefined": {}},
        },
    }
    path.write_text(json.dumps(document))
    return path


def draw(rng, table, **shifts):
    """Draw the metrics of one scan; shifts are in standard deviations."""
    return {
        name: float(f"{middle + spread * (rng.normal() + shifts.get(name, 0)):.9g}")
        for name, (middle, spread) in table.items()
    }


def write_t1w(out, count=12, *, seed=0, scanners=("A",), bad=(), days=1.0, ours=True, drift=None):
    """Write T1w scans of scanners in turn, one a day; those in `bad` have a poor cjv and cnr."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in range(count):
        scanner = scanners[n % len(scanners)]
        shift = {"cjv": 9, "cnr": -9} if n in bad else {}
        if drift is not None:
            shift = {**shift, **drift(n)}
        when = FIRST + timedelta(days=days * n)
        meta = {
            "ManufacturersModelName": f"Model {scanner}",
            "DeviceSerialNumber": scanner,
            "MagneticFieldStrength": 3,
            "ProtocolName": "mprage",
            "AcquisitionDateTime": when.isoformat(),
        }
        name = f"sub-{n + 1:03d}_T1w"
        write_scan(out, name, draw(rng, T1W, **shift), meta=meta, ours=ours)
        rows.append(name)
    return rows


def write_bold(out, count=8, *, seed=1, volumes=50):
    """Write BOLD runs with their displacement; returns it by run."""
    rng = np.random.default_rng(seed)
    made = {}
    for n in range(count):
        name = f"sub-{n + 1:03d}_task-rest_bold"
        moved = np.round(np.abs(rng.normal(0.15, 0.1, volumes - 1)), 6)
        values = draw(rng, BOLD) | {
            "fd_num": int((moved > 0.2).sum()),
            "fd_perc": float(100 * (moved > 0.2).sum() / volumes),
        }
        path = write_scan(out, name, values, settings={"fd_thres": 0.2})
        stem = name.removesuffix("_bold")
        lines = ["framewise_displacement\tdvars_std", "n/a\tn/a", *(f"{v}\t1" for v in moved)]
        path.with_name(f"{stem}_desc-iqms_timeseries.tsv").write_text("\n".join(lines) + "\n")
        made[name] = moved
    return made
