"""Files of a dataset with random damage: bytes of headers and compression, values, lengths."""

import gzip
import json
import struct
from pathlib import Path

import nibabel as nb
import numpy as np
from dwi_tables import directions
from tiny_dataset import BOLD, DWI, PHASEDIFF

AFFINE = np.array([[6.0, 0, 0, -48], [0, 6, 0, -54], [0, 0, 9, -60], [0, 0, 0, 1]])
#: Images of a participant, below its folder, by the number of volumes.
IMAGES = {
    "anat/run-1_T1w": 0,
    "anat/run-2_T1w": 0,
    "func/task-x_run-1_bold": 6,
    "func/task-x_run-2_bold": 6,
    "dwi/dir-AP_dwi": 8,
    "dwi/dir-PA_dwi": 8,
    "fmap/dir-AP_epi": 2,
    "fmap/dir-PA_epi": 0,
    "fmap/phasediff": 0,
    "fmap/magnitude1": 0,
}
SIDECARS = {
    "T1w": {"EchoTime": 0.003, "RepetitionTime": 2.3, "SliceThickness": 4, "Manufacturer": "x"},
    "bold": {
        **BOLD,
        "TaskName": "x",
        "SliceTiming": [0.1 * n for n in range(8)],
        "EffectiveEchoSpacing": 0.0018,
        "B0FieldSource": "phases",
    },
    "dwi": {**DWI, "SliceEncodingDirection": "k", "B0FieldSource": ["pepolar"]},
    "epi": {**BOLD, "B0FieldIdentifier": "pepolar", "IntendedFor": ["func/x_bold.nii.gz"]},
    "phasediff": {**PHASEDIFF, "Units": "rad", "B0FieldIdentifier": "phases"},
    "magnitude1": {"EchoTime": 0.0045, "B0FieldIdentifier": "phases"},
}
EVENTS = "onset\tduration\ttrial_type\n" + "".join(f"{n}\t1\ta\n" for n in range(9))
_ODD_VALUES = (
    *("null", "NaN", "-Infinity", "1e999", "9" * 400, "9" * 5000, "true", '""', '"n/a"', "[]"),
    *("{}", "-1", "0", "[[]]", '["x", 1, null]', '{"a": {"b": []}}', '"\\ud800"', "1e-300"),
    *("[" * 60 + "]" * 60, '"\\u0000"', '"../x"', "[NaN, 0.1]", '"j"', '"k-"', "0.5"),
)
_ODD_CELLS = ("", "n/a", '"', "nan", "inf", "-1", "1e999", "1_0", "x" * 200, "\x00", "é", "\u2028")


def name_of(label, where, ending):
    """Return the path of a file below the dataset's root."""
    folder, _, stem = where.rpartition("/")
    return f"sub-{label}/{folder}/sub-{label}_{stem}{ending}"


def sound_images(rng):
    """Make the bytes of one sound image of each kind, by its place."""
    made = {}
    for where, count in IMAGES.items():
        shape: tuple[int, ...] = (16, 18, 17) if where.startswith("anat") else (16, 18, 8)
        shape += (count,) if count else ()
        klass = nb.Nifti2Image if "run-2" in where else nb.Nifti1Image
        image = klass(rng.integers(0, 4095, shape).astype(np.int16), AFFINE)
        image.set_sform(AFFINE, 1)
        image.set_qform(AFFINE, 1)
        image.header.set_xyzt_units("mm", "sec")
        if count:
            image.header["pixdim"][4] = 2.0
        made[where] = image.to_bytes()
    return made


def mutate_image(rng, raw):
    """Damage an image in one or a few places; return its bytes and the end of its name."""
    raw = bytearray(raw)
    length = 348 if int.from_bytes(raw[:4], "little") == 348 else 540
    kind = rng.integers(6)
    if kind <= 2:  # bytes of the header
        for place in rng.integers(0, length + 4, rng.integers(1, 4)):
            raw[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
    elif kind == 3:  # a number of the header
        code = str(rng.choice(["<h", "<f", "<i", "<d"]))
        value = rng.choice([np.nan, np.inf, -1.0, 0.0, 1e-30, 1e30, 7.0, 32767.0])
        value = value if code in ("<f", "<d") else int(np.nan_to_num(value, posinf=9).clip(-1, 9))
        struct.pack_into(code, raw, int(rng.integers(0, length - 8)) // 2 * 2, value)
    elif kind == 4:  # an extension, and what it says of itself
        flag, size = int(rng.integers(0, 3)), int(rng.choice([-1, 0, 7, 8, 15, 16, 32, 2**31 - 1]))
        extension = struct.pack("<2i", size, int(rng.integers(-2, 50))) + rng.bytes(24)
        raw[length : length + 4] = bytes([flag, 0, 0, 0])
        raw[length + 4 : length + 4] = extension
        if length == 348:
            struct.pack_into("<f", raw, 108, float(length + 4 + rng.choice([16, 32, 48])))
        else:
            struct.pack_into("<q", raw, 168, int(length + 4 + rng.choice([16, 32, 48])))
    else:
        raw = raw[: rng.integers(0, len(raw))]
    if rng.random() < 0.5:
        return bytes(raw), ".nii"
    packed = bytearray(gzip.compress(bytes(raw), 1, mtime=0))
    if rng.random() < 0.3 and len(packed) > 40:
        kind = rng.integers(4)
        if kind == 0:
            packed = packed[: rng.integers(0, len(packed))]
        elif kind == 1:
            packed[int(rng.integers(0, 30))] ^= int(rng.integers(1, 256))
        elif kind == 2:
            packed[int(rng.integers(0, len(packed)))] ^= int(rng.integers(1, 256))
        else:
            packed += rng.bytes(int(rng.integers(1, 60)))
    return bytes(packed), ".nii.gz"


def mutate_bytes(rng, raw):
    """Change, insert or cut a few bytes of a text."""
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(0, len(raw) + 1))
        kind = rng.integers(5)
        if kind == 0:
            raw[place:place] = rng.bytes(int(rng.integers(1, 6)))
        elif kind == 1:
            raw[place : place + 1] = bytes([rng.choice([0, 9, 10, 13, 34, 44, 91, 123, 239, 255])])
        elif kind == 2:
            del raw[place : place + int(rng.integers(1, 9))]
        elif kind == 3:
            raw = raw[:place]
        else:
            other = str(rng.choice(["utf-16", "utf-8-sig"]))
            raw = bytearray(bytes(raw).decode("latin-1").encode(other))
    return bytes(raw)


def mutate_json(rng, content):
    """Damage a sidecar: its bytes, or one of its values."""
    kind = rng.integers(4)
    key = str(rng.choice([*content, "TotalReadoutTime", "B0FieldIdentifier", "PartialFourier"]))
    odd = str(rng.choice(_ODD_VALUES))
    if kind == 0:
        return mutate_bytes(rng, json.dumps(content).encode())
    if kind == 1:  # not an object, or nothing
        return rng.choice(["", "[]", "1", "null", '"x"', "{", " ", "/annex/objects/x"]).encode()
    rest = {name: value for name, value in content.items() if name != key or kind == 2}
    return (json.dumps(rest)[:-1] + f', "{key}": {odd}}}').encode()


def mutate_table(rng, text):
    """Damage a table: its bytes, one of its cells, or its encoding."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, text.encode())
    lines = [line.split("\t") for line in text.splitlines()]
    row = int(rng.integers(len(lines)))
    lines[row][int(rng.integers(len(lines[row])))] = str(rng.choice(_ODD_CELLS))
    ends = str(rng.choice(["\n", "\r\n", "\r", "\n\n"]))
    return ends.join("\t".join(cells) for cells in lines).encode(
        str(rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"])), "replace"
    )


def gradient_files():
    """Make b-values and directions of 8 volumes, as text."""
    vectors = np.vstack([np.zeros((1, 3)), directions(7)]).T
    rows = ("\t".join(f"{value:.5f}" for value in row) for row in vectors)
    return {".bval": "\t".join(["0", *["1000"] * 7]) + "\n", ".bvec": "\n".join(rows) + "\n"}


def write_sound(root: Path, label, images):
    """Write a participant without damage."""
    for where, raw in images.items():
        path = root / name_of(label, where, ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(raw, 1, mtime=0))


def write_shared(root: Path):
    """Write the description of a dataset, and what applies to all participants."""
    root.mkdir(parents=True)
    description = {"Name": "odd", "BIDSVersion": "1.10.0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    for suffix, content in SIDECARS.items():
        (root / f"{suffix}.json").write_text(json.dumps(content))
    for ending, text in gradient_files().items():
        (root / f"dwi{ending}").write_text(text)
