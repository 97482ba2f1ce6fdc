"""Each kind of invalid image, as a real file."""

import gzip
import os
import socket
import struct
import tracemalloc
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.eulerangles import euler2mat

from neuroferry.bids.headers import read_header
from neuroferry.bids.images import check_image

AFFINE = np.array([[4.0, 0, 0, -40], [0, 4, 0, -44], [0, 0, 4, -48], [0, 0, 0, 1]])


def volume(shape=(20, 22, 24), dtype=np.int16):
    return np.random.default_rng(1).integers(0, 900, shape).astype(dtype)


def only(problems, severity):
    (problem,) = problems
    assert problem.severity == severity
    assert problem.subject == "01"
    assert str(problem.path) in problem.message
    return problem.message


def turned(degrees):
    return from_matvec(euler2mat(z=np.deg2rad(degrees)) * 4, AFFINE[:3, 3])


@pytest.mark.parametrize("name", ["sub-01_T1w.nii.gz", "sub-01_T1w.nii"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_a_sound_image_has_no_problem(write_image, name, dtype):
    assert check_image(write_image(volume(dtype=dtype), name)) == []


@pytest.mark.parametrize("degrees", [10, 44, 60, 200])
def test_an_oblique_field_of_view_is_fine(write_image, degrees):
    affine = turned(degrees)
    assert check_image(write_image(sform=affine, qform=affine)) == []


def test_one_form_is_enough(write_image):
    assert check_image(write_image(codes=(1, 0), name="sub-01_a.nii")) == []
    assert check_image(write_image(codes=(0, 1), name="sub-01_b.nii")) == []


@pytest.mark.parametrize("name", ["sub-01_T1w.nii.gz", "sub-01_T1w.nii"])
def test_a_long_header_extension_is_passed_over(tmp_path, name):
    image = nb.Nifti1Image(volume(), AFFINE)
    image.header.set_sform(AFFINE, code=1)
    image.header.extensions.append(nb.nifti1.Nifti1Extension(4, b"<xml/>" * 5000))
    image.to_filename(tmp_path / name)
    assert check_image(tmp_path / name) == []
    image.dataobj[:] = 3
    image.to_filename(tmp_path / name)
    assert "the same value (3)" in only(check_image(tmp_path / name), "error")


def test_the_other_byte_order_and_nifti_2(tmp_path):
    for image in (
        nb.Nifti1Image(volume(), AFFINE, nb.Nifti1Header(endianness=">")),
        nb.Nifti2Image(volume(), AFFINE),
    ):
        image.header.set_sform(AFFINE, code=1)
        image.to_filename(tmp_path / "sub-01_T1w.nii.gz")
        assert check_image(tmp_path / "sub-01_T1w.nii.gz") == []


def test_missing_and_empty_files(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    assert "cannot be read: No such file" in only(check_image(path), "error")
    path.touch()
    assert "is empty (0 bytes)" in only(check_image(path), "error")


def test_a_link_whose_content_was_not_fetched(tmp_path):
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.symlink_to(".git/annex/objects/x")
    assert "datalad get" in only(check_image(path), "error")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9999])
def test_a_truncated_compressed_image(write_image, kept):
    path = write_image(volume((40, 40, 40)))
    os.truncate(path, int(path.stat().st_size * kept))
    assert "truncated or damaged" in only(check_image(path), "error")


def test_a_truncated_image_that_was_compressed_after_it_was_cut(write_image):
    path = write_image()
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1000]))
    assert "declares 21120 bytes of voxels, but the file has 20120" in only(
        check_image(path), "error"
    )


def test_a_truncated_uncompressed_image(write_image):
    path = write_image(name="sub-01_T1w.nii")
    os.truncate(path, path.stat().st_size // 2)
    assert "is truncated" in only(check_image(path), "error")


def test_one_changed_byte_breaks_the_checksum(write_image):
    path = write_image(volume((40, 40, 40)))
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # in the stored checksum
    path.write_bytes(data)
    assert "truncated or damaged" in only(check_image(path), "error")


def test_an_image_that_is_not_compressed_though_its_name_says_so(write_image):
    path = write_image(name="sub-01_T1w.nii")
    path = path.rename(path.with_suffix(".nii.gz"))
    assert "not compressed with gzip" in only(check_image(path), "error")


@pytest.mark.parametrize("content", [b"no image", b"no image" * 200])
def test_a_file_that_is_no_image(tmp_path, content):
    path = tmp_path / "sub-01_T1w.nii.gz"
    path.write_bytes(gzip.compress(content))
    assert "no readable NIfTI header" in only(check_image(path), "error")


def test_dimensions(write_image):
    assert "has 4 dimensions (20 x 22 x 24 x 3)" in only(
        check_image(write_image(volume((20, 22, 24, 3)))), "error"
    )
    assert "it is squeezed" in only(check_image(write_image(volume((20, 22, 24, 1)))), "warning")
    assert "is not a volume (200 x 200 voxels)" in only(
        check_image(write_image(volume((200, 200)))), "error"
    )
    assert "at least 16 along each axis" in only(
        check_image(write_image(volume((15, 40, 40)))), "error"
    )
    assert check_image(write_image(volume((20, 22, 24, 3))), ndim=4) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(write_image, bad):
    data = volume(dtype=np.float32)
    data[3:5, 2, 1] = bad
    assert "2 of 10560 voxels are not finite" in only(check_image(write_image(data)), "error")
    data[:] = bad
    assert "no voxel has a finite value" in only(check_image(write_image(data)), "error")


def test_constant_images(write_image):
    data = np.full((20, 22, 24), 7, np.int16)
    assert "the same value (7)" in only(check_image(write_image(data)), "error")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_values_that_are_no_real_numbers(write_image, dtype):
    data = np.zeros((20, 22, 24), np.dtype(dtype))
    assert "not one real number per voxel" in only(check_image(write_image(data)), "error")


@pytest.mark.parametrize("size", [0.0, np.nan])
def test_voxel_sizes_that_cannot_be(write_image, size):
    path = write_image(name="sub-01_T1w.nii")
    data = bytearray(path.read_bytes())
    data[80:84] = np.float32(size).tobytes()  # pixdim[1]
    path.write_bytes(data)
    assert "must be positive" in only(check_image(path), "error")


def test_a_field_of_view_that_is_no_head(write_image):
    small = np.diag([0.4, 0.4, 0.4, 1])
    assert "unusual for a head" in only(
        check_image(write_image(sform=small, qform=small)), "warning"
    )


@pytest.mark.parametrize(("code", "unit"), [(1, "meter"), (3, "micron")])
def test_lengths_that_are_not_in_mm(write_image, code, unit):
    path = write_image(name="sub-01_T1w.nii")
    data = bytearray(path.read_bytes())
    data[123] = code | 8  # xyzt_units
    path.write_bytes(data)
    assert f"lengths in {unit}" in only(check_image(path), "error")


def test_no_orientation_at_all(write_image):
    assert "left and right are unknown" in only(check_image(write_image(codes=(0, 0))), "error")


def test_an_affine_that_cannot_be_inverted(write_image):
    flat = AFFINE.copy()
    flat[:3, 2] = flat[:3, 1]
    assert "sform is not invertible" in only(check_image(write_image(sform=flat)), "error")
    flat[:3, 2] = 0
    assert "sform is not invertible" in only(check_image(write_image(sform=flat)), "error")


def test_a_sheared_sform(write_image):
    sheared = AFFINE.copy()
    sheared[0, 1] = 0.4
    assert "shears the voxels by 5.7 degrees" in only(
        check_image(write_image(sform=sheared)), "error"
    )


def test_a_small_disagreement_of_the_forms_is_rounding(write_image):
    assert check_image(write_image(sform=turned(0.3), qform=AFFINE)) == []


def test_a_larger_disagreement_is_a_warning_that_names_the_choice(write_image):
    message = only(check_image(write_image(sform=turned(8), qform=AFFINE)), "warning")
    assert "mm apart; the sform is used" in message


def test_forms_that_would_exchange_left_and_right_are_an_error(write_image):
    flipped = AFFINE @ np.diag([-1, 1, 1, 1])
    message = only(check_image(write_image(sform=flipped, qform=AFFINE)), "error")
    assert "LAS by the sform, RAS by the qform" in message


def test_forms_that_disagree_on_volume_are_an_error(write_image):
    larger = AFFINE @ np.diag([1.05, 1, 1, 1])
    assert "brain volumes might be wrong" in only(check_image(write_image(sform=larger)), "error")


def test_the_memory_does_not_depend_on_the_size(write_image):
    small = np.diag([1.5, 1.5, 1.5, 1])
    path = write_image(volume((160, 160, 200)), sform=small, qform=small)
    check_image(path)  # imports
    tracemalloc.start()
    assert check_image(path) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4.5e6 < path.stat().st_size


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, -5.0, 20.0])
def test_voxels_that_begin_nowhere(write_image, offset):
    path = write_image(name="sub-01_T1w.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    path.write_bytes(content)
    assert "no readable NIfTI header" in only(check_image(path), "error")


def patched(path, places):
    """Replace bytes of an uncompressed image: offset to struct format and values."""
    content = bytearray(path.read_bytes())
    for place, (form, *values) in places.items():
        struct.pack_into(form, content, place, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({108: ("<f", np.nan)}, "no readable NIfTI header"),
        ({112: ("<2f", 1.0, np.nan)}, "invalid intercept nan"),
        ({112: ("<2f", 1e38, 0.0)}, "too large for a number of 32 bits"),
        ({40: ("<8h", 4, 20, 22, 24, 0, 1, 1, 1)}, "declares 20 x 22 x 24 x 0 voxels"),
        ({40: ("<8h", 3, 20, -22, 24, 1, 1, 1, 1)}, "declares 20 x -22 x 24 voxels"),
        ({40: ("<8h", 7, *[32767] * 7)}, "is truncated: its header declares"),
        ({40: ("<8h", 3, 20, 22, 12, 1, 1, 1, 1)}, "the header does not describe it"),
        ({70: ("<h", 1536)}, "no readable NIfTI header"),  # numbers of 128 bits
        ({70: ("<h", 4096)}, "no readable NIfTI header"),
        ({280: ("<12f", *[0.0] * 12)}, "sform is not invertible"),
        ({280: ("<f", np.nan)}, "sform is not invertible"),
        ({348: ("<4b2i", 1, 0, 0, 0, 7, 6), 108: ("<f", 368.0)}, "extensions are damaged"),
        ({348: ("<4b2i", 1, 0, 0, 0, 2**31 - 1, 6), 108: ("<f", 368.0)}, "extensions are damaged"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_headers_that_mean_nothing(write_image, places, words):
    path = patched(write_image(name="sub-01_T1w.nii"), places)
    problems = [p for p in check_image(path, ndim=4) if p.severity == "error"]
    assert words in only(problems, "error")


def test_a_bad_quaternion_beside_a_good_sform(write_image):
    """Its fourth part would be the root of -3.8e-7, which nibabel refuses (fmriprep#845)."""
    path = write_image(name="sub-01_T1w.nii")
    patched(path, {256: ("<3f", 1.0, np.sqrt(3.8e-7), 0.0)})
    message = only(check_image(path), "warning")
    assert "the qform is not valid" in message
    assert "the sform is used" in message
    assert np.array_equal(read_header(path).affine, AFFINE)
    patched(path, {254: ("<h", 0)})
    assert "the orientation in the header is not valid" in only(check_image(path), "error")


def test_a_qfac_of_zero_counts_as_one(write_image):
    path = patched(write_image(name="sub-01_T1w.nii"), {76: ("<f", 0.0)})
    assert check_image(path) == []
    patched(path, {254: ("<h", 0)})  # without a sform
    assert check_image(path) == []
    assert np.allclose(read_header(path).affine, AFFINE)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float64, np.int8])
def test_every_type_of_real_numbers(write_image, dtype):
    data = np.random.default_rng(1).integers(0, 90, (20, 22, 24)).astype(dtype)
    image = nb.Nifti1Image(data, AFFINE, dtype=dtype)
    image.set_sform(AFFINE, 1)
    path = write_image(name="sub-01_T1w.nii.gz")
    image.to_filename(path)
    assert check_image(path) == []


def test_five_dimensions_of_which_the_last_has_one_element(write_image):
    assert "it is squeezed" in only(
        check_image(write_image(volume((20, 22, 24, 6, 1))), ndim=4), "warning"
    )


def test_compressed_in_several_parts(write_image):
    path = write_image()
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    assert check_image(path) == []
    path.write_bytes(gzip.compress(raw) + b"garbage")
    assert "truncated or damaged" in only(check_image(path), "error")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"/annex/objects/MD5E-s12--0f3.nii.gz\n", "fetch it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "fetch it"),
        ("folder", "is a folder, not a file"),
        ("pipe", "is a named pipe, not a file"),
        ("socket", "is a socket, not a file"),
        ("loop", "cannot be read"),
    ],
)
def test_what_is_no_file_with_content(tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("sub-01_T1w.nii.gz")
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
    elif content == "loop":
        path.symlink_to(path.name)
    else:
        path.write_bytes(content)
    assert words in only(check_image(path), "error")
