"""Confounds against those of nipype, which fMRIPrep writes, and against simulated truth."""

import json
import re
import warnings
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import nibabel as nb
import numpy as np
import pytest
from nilearn.interfaces.fmriprep import load_confounds
from nipype.algorithms import confounds as nipype_confounds

from neuroferry.errors import InputError
from neuroferry.interfaces.epi.confound_table import (
    MOTION,
    motion_outliers,
    read_table,
    write_table,
)
from neuroferry.interfaces.epi.motion_table import framewise_displacement
from neuroferry.interfaces.func.compcor import (
    cosine_basis,
    mean_series,
    noise_components,
    noise_masks,
    top_variance,
)
from neuroferry.interfaces.func.confounds import ComputeConfounds, compute_confounds
from neuroferry.interfaces.func.dvars import temporal_statistics
from neuroferry.interfaces.image.series import open_series
from neuroferry.interfaces.image.voxel_store import VoxelStore, exact_median

SHAPE, N_VOLUMES, TR, N_DUMMY = (16, 18, 14), 90, 2.0, 3
AFFINE = np.diag([-3.0, 3.0, 3.5, 1.0])
JERK = 50


def make_run(folder, *, n_dummy=N_DUMMY, seed=0):
    """Ball-shaped brain: GM shell, WM with its own slow wave, CSF with a pulse."""
    rng = np.random.default_rng(seed)
    grid = np.indices(SHAPE)
    middle = np.array(SHAPE)[:, None, None, None] / 2 - 0.5
    radius = np.sqrt((((grid - middle) / (np.array(SHAPE)[:, None, None, None] / 2)) ** 2).sum(0))
    brain = radius < 0.95
    csf = radius < 0.36
    wm = (radius >= 0.36) & (radius < 0.8)
    gm = brain & (radius >= 0.8)
    time = np.arange(N_VOLUMES)
    beat, wave = np.sin(time * 1.7), np.sin(time * 0.9 + 1)
    level = 1000 * csf + 600 * wm + 700 * gm + 5.0
    data = level[..., None] + rng.normal(0, 8, (*SHAPE, N_VOLUMES))
    data += 25 * csf[..., None] * beat + 12 * wm[..., None] * wave
    data += 3 * brain[..., None] * np.linspace(-1, 1, N_VOLUMES)
    data[..., :n_dummy] *= np.array([1.6, 1.2, 1.1, 1.05])[:n_dummy]
    data[..., JERK] += 60 * brain * np.sign(grid[0] - 8)
    motion = np.cumsum(rng.normal(0, [0.02] * 3 + [0.0004] * 3, (N_VOLUMES, 6)), axis=0)
    motion[JERK:, 1] += 1.5
    paths = {"bold": folder / "bold.nii.gz", "bold_mask": folder / "mask.nii.gz"}
    image = nb.Nifti1Image(data.astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = TR
    nb.save(image, paths["bold"])
    nb.save(nb.Nifti1Image(brain.astype(np.uint8), AFFINE), paths["bold_mask"])
    paths["tpms"] = []
    for name, tissue in (("gm", gm), ("wm", wm), ("csf", csf)):
        paths["tpms"].append(folder / f"{name}.nii.gz")
        nb.save(nb.Nifti1Image(tissue.astype(np.float32), AFFINE), paths["tpms"][-1])
    paths["motion_tsv"] = folder / "motion.tsv"
    columns = dict(zip(MOTION, motion.T, strict=True))
    write_table(paths["motion_tsv"], {**columns, "rmsd": np.abs(np.gradient(motion[:, 1]))})
    return {"paths": paths, "beat": beat, "wave": wave, "brain": brain, "data": data}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """Same series without volumes before the steady state."""
    return make_run(tmp_path_factory.mktemp("steady"), n_dummy=0)


def run_interface(paths, folder, **others):
    inputs = {
        name: [str(p) for p in path] if isinstance(path, list) else str(path)
        for name, path in paths.items()
    }
    folder.mkdir(exist_ok=True)
    given = {"n_dummy": N_DUMMY, "tr": TR, **others}
    return ComputeConfounds(**inputs, **given).run(cwd=str(folder)).outputs


@pytest.fixture(scope="module")
def outputs(made, tmp_path_factory):
    return run_interface(made["paths"], tmp_path_factory.mktemp("out"))


@contextmanager
def store_of(made, block_voxels=100):
    with VoxelStore(N_VOLUMES, int(made["brain"].sum()), block_voxels=block_voxels) as store:
        for volume in open_series(made["paths"]["bold"]).volumes():
            store.add(volume[made["brain"]])
        yield store


# --- the parts -------------------------------------------------------------------------


def test_blocks_give_back_what_went_in_whatever_their_size():
    values = np.random.default_rng(1).normal(size=(7, 23)).astype(np.float32)
    for size in (1, 5, 23, 100):
        with VoxelStore(7, 23, block_voxels=size) as store:
            for row in values:
                store.add(row)
            for start in (0, 2):
                blocks = [block for _, block in store.blocks(start)]
                np.testing.assert_array_equal(np.hstack(blocks), values[start:])


def test_a_block_stays_small_in_a_long_run():
    assert VoxelStore(20_000, 300_000).block_voxels * 20_000 * 4 <= 34e6


@pytest.mark.parametrize("shape", [(4, 5), (5, 5), (1, 2)])
def test_median_is_exact_for_any_sign(shape):
    rng = np.random.default_rng(2)
    for values in (rng.normal(size=shape), rng.integers(-2, 3, shape), np.zeros(shape)):
        values = values.astype(np.float32)
        with VoxelStore(*shape, block_voxels=2) as store:
            for row in values:
                store.add(row)
            assert exact_median(store) == np.median(values.astype(np.float64))


def test_framewise_displacement_is_nipypes(tmp_path):
    motion = np.random.default_rng(3).normal(size=(40, 6)) * [1, 1, 1, 0.02, 0.02, 0.02]
    source = tmp_path / "motion.txt"
    np.savetxt(source, motion)
    theirs = nipype_confounds.FramewiseDisplacement(
        in_file=str(source), parameter_source="SPM", out_file=str(tmp_path / "fd.txt")
    ).run(cwd=str(tmp_path))
    ours = framewise_displacement(motion)
    assert np.isnan(ours[0])
    np.testing.assert_allclose(ours[1:], np.loadtxt(theirs.outputs.out_file, skiprows=1))


def lag_one(series, order):
    """Solve the first-order Yule-Walker equation, as nipype does with nitime."""
    assert order == 1
    series = series - series.mean()
    return np.array([(series[1:] @ series[:-1]) / (series @ series)])


def test_dvars_is_nipypes(steady, monkeypatch):
    monkeypatch.setattr(nipype_confounds, "_AR_est_YW", lambda x, order: lag_one(x, order))
    std, plain, _ = nipype_confounds.compute_dvars(
        str(steady["paths"]["bold"]), str(steady["paths"]["bold_mask"]), remove_zerovariance=True
    )
    with store_of(steady) as store:
        found = temporal_statistics(store)
    assert np.isnan(found.dvars[0])
    np.testing.assert_allclose(found.dvars[1:], plain, rtol=2e-5)
    np.testing.assert_allclose(found.std_dvars[1:], std, rtol=2e-4)


def test_std_dvars_is_not_swayed_by_volumes_before_the_steady_state(made, steady):
    with store_of(made) as store, store_of(steady) as without:
        found = temporal_statistics(store, N_DUMMY).std_dvars
        truth = temporal_statistics(without, N_DUMMY).std_dvars
        swayed = temporal_statistics(store).std_dvars
    np.testing.assert_allclose(found[N_DUMMY + 1 :], truth[N_DUMMY + 1 :], rtol=1e-6)
    assert np.abs(swayed / truth - 1)[N_DUMMY + 1 :].min() > 0.05


def aligned(ours, theirs):
    """Correlate components of the same rank, regardless of sign."""
    return np.abs(np.sum(ours * theirs, axis=0))


def test_anatomical_components_are_nipypes(made, tmp_path):
    csf = nb.load(made["paths"]["tpms"][2]).get_fdata() > 0.5
    nb.save(nb.Nifti1Image(csf.astype(np.uint8), AFFINE), tmp_path / "csf.nii.gz")
    theirs = nipype_confounds.ACompCor(
        realigned_file=str(made["paths"]["bold"]),
        mask_files=str(tmp_path / "csf.nii.gz"),
        pre_filter="cosine",
        repetition_time=TR,
        ignore_initial_volumes=N_DUMMY,
        variance_threshold=0.5,
        save_metadata=str(tmp_path / "meta.tsv"),
        save_pre_filter=str(tmp_path / "filter.tsv"),
        components_file=str(tmp_path / "components.tsv"),
    ).run(cwd=str(tmp_path))
    table = np.loadtxt(theirs.outputs.components_file, skiprows=1, ndmin=2)
    with store_of(made) as store:
        ours = noise_components(store, {"CSF": csf[made["brain"]]}, TR, start=N_DUMMY)["CSF"]
    assert ours.series.shape == table.shape
    assert (ours.series[:N_DUMMY] == 0).all()
    assert aligned(ours.series, table).min() > 0.99999
    meta = np.genfromtxt(theirs.outputs.metadata_file, names=True, dtype=None)
    np.testing.assert_allclose(ours.singular_values[:40], meta["singular_value"][:40], rtol=1e-4)
    explained = meta["variance_explained"][:40]
    np.testing.assert_allclose(ours.variance_explained[:40], explained, rtol=1e-4)
    cosines = np.loadtxt(tmp_path / "filter.tsv", skiprows=1)[N_DUMMY:, :-N_DUMMY]
    np.testing.assert_allclose(cosine_basis(N_VOLUMES - N_DUMMY, TR), cosines, atol=1e-9)


def test_temporal_components_are_nipypes(steady, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nipype writes its mask into the current folder
    theirs = nipype_confounds.TCompCor(
        realigned_file=str(steady["paths"]["bold"]),
        mask_files=str(steady["paths"]["bold_mask"]),
        pre_filter="cosine",
        repetition_time=TR,
        variance_threshold=0.5,
        percentile_threshold=0.02,
    ).run()
    with store_of(steady) as store:
        mask = top_variance(temporal_statistics(store).deviations)
        ours = noise_components(store, {"temporal": mask}, TR)["temporal"]
    their_mask = nb.load(theirs.outputs.high_variance_masks).get_fdata() > 0
    np.testing.assert_array_equal(mask, their_mask[steady["brain"]])
    table = np.loadtxt(theirs.outputs.components_file, skiprows=1, ndmin=2)
    assert ours.series.shape == table.shape
    assert aligned(ours.series, table).min() > 0.9999


def test_components_do_not_depend_on_the_blocks(made):
    masks = {"all": np.ones(int(made["brain"].sum()), bool)}
    with store_of(made, 37) as few, store_of(made, 4096) as many:
        a, b = (noise_components(s, masks, TR)["all"] for s in (few, many))
        one, other = (mean_series(s, masks)["all"] for s in (few, many))
    np.testing.assert_allclose(a.singular_values, b.singular_values, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(one, other, rtol=1e-7)


def test_masks_hold_what_they_are_named_for(made):
    tpms = [nb.load(path).get_fdata(dtype=np.float32) for path in made["paths"]["tpms"]]
    masks = noise_masks(tpms, made["brain"], np.array([3.0, 3.0, 3.5]))
    grey = tpms[0] > 0.05
    for name, tissue in (("CSF", tpms[2]), ("WM", tpms[1]), ("combined", tpms[1] + tpms[2])):
        voxels = masks[name].voxels
        assert voxels.sum() >= 30
        assert (tissue[voxels] >= 0.99).all()
        assert not (voxels & (grey | ~made["brain"])).any()
    assert masks["WM"].apart
    beside = np.zeros_like(grey)
    beside[1:] |= grey[:-1]
    beside[:-1] |= grey[1:]
    assert not (masks["WM"].voxels & beside).any()


def test_masks_grow_where_hardly_a_voxel_is_pure(made):
    grey, white, fluid = (nb.load(p).get_fdata(dtype=np.float32) for p in made["paths"]["tpms"])
    masks = noise_masks([grey, white, 0.93 * fluid], made["brain"], np.array([3.0, 3.0, 3.5]))
    assert masks["CSF"].level == 0.9
    assert masks["CSF"].voxels.sum() >= 30
    nothing = noise_masks([grey, 0 * white, 0 * fluid], made["brain"], np.array([3.0, 3.0, 3.5]))
    assert not any(mask.voxels.any() for mask in nothing.values())


def test_outliers_leave_out_the_start_and_need_more_than_the_threshold():
    fd = np.array([np.nan, 2.0, 0.5, 0.51, 0.0])
    dvars = np.array([np.nan, 1.0, 9.0, 1.0, 1.6])  # 9: the step from dummy to steady
    assert motion_outliers(fd, dvars, 2, 0.5, 1.5) == [3, 4]


# --- the table -------------------------------------------------------------------------


def test_columns_are_those_of_fmriprep(outputs):
    table = read_table(outputs.confounds_tsv)
    powers = ("", "_derivative1", "_power2", "_derivative1_power2")
    for name, power in product([*MOTION, "global_signal", "csf", "white_matter"], powers):
        column = table[name + power]
        assert np.isnan(column[0]) == ("derivative" in power)
        assert np.isfinite(column[1:]).all()
    for name in ("framewise_displacement", "dvars", "std_dvars", "rmsd"):
        assert np.isnan(table[name][0])
        assert np.isfinite(table[name][1:]).all()
    assert {"csf_wm", "tcompcor", "cosine00", "motion_outlier00"} <= set(table)
    assert {f"{p}_comp_cor_00" for p in "tacw"} <= set(table)
    dummies = [name for name in table if name.startswith("non_steady_state_outlier")]
    assert dummies == [f"non_steady_state_outlier{n:02d}" for n in range(N_DUMMY)]
    np.testing.assert_array_equal(
        np.column_stack([table[name] for name in dummies]), np.eye(N_VOLUMES)[:, :N_DUMMY]
    )
    components = [table[name] for name in table if "comp_cor" in name or "cosine" in name]
    assert all((column[:N_DUMMY] == 0).all() for column in components)
    assert all((np.abs(column[N_DUMMY:]) > 0).any() for column in components)
    spikes = [np.flatnonzero(table[n]).tolist() for n in table if n.startswith("motion_outlier")]
    assert spikes == [[JERK], [JERK + 1]]


def test_signals_are_what_was_put_in(made, outputs):
    table = read_table(outputs.confounds_tsv)
    late = np.arange(N_VOLUMES) > JERK + 1
    assert np.corrcoef(table["csf"][late], made["beat"][late])[0, 1] > 0.99
    assert np.corrcoef(table["white_matter"][late], made["wave"][late])[0, 1] > 0.98
    whole = made["data"][made["brain"]].mean(axis=0)
    np.testing.assert_allclose(table["global_signal"], whole, rtol=1e-5)
    basis = np.column_stack([table[n] for n in table if n.startswith("c_comp_cor")])
    share = np.linalg.norm(basis[N_DUMMY:].T @ made["beat"][N_DUMMY:])
    assert share / np.linalg.norm(made["beat"][N_DUMMY:]) > 0.95


def test_sidecar_describes_the_components(outputs):
    table = read_table(outputs.confounds_tsv)
    about = json.loads(Path(outputs.confounds_json).read_text())
    for prefix, mask in (("a", "combined"), ("c", "CSF"), ("w", "WM"), ("t", None)):
        names = [name for name in about if name.startswith(f"{prefix}_comp_cor_")]
        assert names == [name for name in table if name.startswith(f"{prefix}_comp_cor_")]
        for name in names:
            assert about[name].get("Mask") == mask
            assert about[name]["Method"] == ("tCompCor" if prefix == "t" else "aCompCor")
            assert about[name]["Retained"] is True
        total = [about[name]["CumulativeVarianceExplained"] for name in names]
        assert total == sorted(total)
        assert total[-1] >= 0.5
        assert len(total) == 1 or total[-2] < 0.5
        explained = [about[name]["VarianceExplained"] for name in names]
        assert sum(explained) == pytest.approx(total[-1], rel=1e-6)


def test_every_column_is_described_unless_its_name_says_it(outputs):
    """Head motion, cosines and spikes are named only; expansions are those of their signal."""
    about = json.loads(Path(outputs.confounds_json).read_text())
    named = re.compile("|".join([*MOTION, r"(cosine|(motion|non_steady_state)_outlier)\d+"]))
    signals = {
        name.removesuffix("_power2").removesuffix("_derivative1")
        for name in read_table(outputs.confounds_tsv)
    }
    described = {name for name, words in about.items() if {"Description", "Method"} & set(words)}
    assert described == {name for name in signals if not named.fullmatch(name)}


def test_images_and_summary(made, outputs):
    bits = nb.load(outputs.compcor_masks).get_fdata().astype(int)
    summary = json.loads(Path(outputs.summary_json).read_text())
    for name, bit in (("CSF", 1), ("WM", 2), ("combined", 4), ("temporal", 8)):
        assert np.count_nonzero(bits & bit) == summary["CompCor"][name]["NumberOfVoxels"] > 0
    assert summary["MotionOutliers"]["Volumes"] == [JERK, JERK + 1]
    assert summary["FramewiseDisplacement"]["Maximum"] > 1.5
    tsnr = nb.load(outputs.tsnr_map).get_fdata()
    steady = made["data"].astype(np.float32)[..., N_DUMMY:]
    expected = (steady.mean(-1) / steady.std(-1)) * made["brain"]
    np.testing.assert_allclose(tsnr, expected, rtol=1e-4)


def test_same_bytes_again(made, outputs, tmp_path):
    again = run_interface(made["paths"], tmp_path / "again")
    names = ("confounds_tsv", "confounds_json", "summary_json", "compcor_masks", "tsnr_map")
    for name in names:
        one, two = (Path(getattr(result, name)).read_bytes() for result in (outputs, again))
        assert one == two
    assert [p.name for p in (tmp_path / "again").iterdir() if "voxels" in p.name] == []


# --- nilearn reads it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def derivative(made, outputs, tmp_path_factory):
    """Files under the names used by the package."""
    folder = tmp_path_factory.mktemp("func")
    stem = "sub-01_task-x_run-1"
    bold = folder / f"{stem}_space-T1w_desc-preproc_bold.nii.gz"
    for source, path in (
        (made["paths"]["bold"], bold),
        (outputs.confounds_tsv, folder / f"{stem}_desc-confounds_timeseries.tsv"),
        (outputs.confounds_json, folder / f"{stem}_desc-confounds_timeseries.json"),
    ):
        path.write_bytes(Path(source).read_bytes())
    return bold


COMPCORS = (
    "anat_combined",
    "anat_separated",
    "temporal",
    "temporal_anat_combined",
    "temporal_anat_separated",
)


@pytest.mark.parametrize("model", ["basic", "power2", "derivatives", "full"])
def test_nilearn_reads_motion_and_signals(derivative, model):
    confounds, mask = load_confounds(
        str(derivative),
        strategy=("motion", "high_pass", "wm_csf", "global_signal", "scrub"),
        motion=model,
        wm_csf=model,
        global_signal=model,
        scrub=0,
    )
    factor = {"basic": 1, "power2": 2, "derivatives": 2, "full": 4}[model]
    n_cosines = cosine_basis(N_VOLUMES - N_DUMMY, TR).shape[1]
    assert confounds.shape == (N_VOLUMES, 9 * factor + n_cosines)
    assert np.isfinite(confounds.to_numpy()).all()
    # nilearn also uses the change from the last volume before the steady state
    left_out = {*range(N_DUMMY + 1), JERK, JERK + 1}
    assert mask.tolist() == [t for t in range(N_VOLUMES) if t not in left_out]


@pytest.mark.parametrize(("compcor", "count"), product(COMPCORS, ["all", 1]))
def test_nilearn_reads_every_compcor(derivative, compcor, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        confounds, mask = load_confounds(
            str(derivative),
            strategy=("high_pass", "compcor"),
            compcor=compcor,
            n_compcor=count,
        )
    found = [name for name in confounds if "comp_cor" in name]
    assert ("t_comp_cor_00" in found) == ("temporal" in compcor)
    assert ("a_comp_cor_00" in found) == ("combined" in compcor)
    assert ("w_comp_cor_00" in found) == ("separated" in compcor)
    assert len(mask) == N_VOLUMES - N_DUMMY


# --- what cannot be done -----------------------------------------------------------------


def test_without_tissues_the_rest_is_there(made, tmp_path):
    paths = {name: path for name, path in made["paths"].items() if name != "tpms"}
    table = read_table(run_interface(paths, tmp_path).confounds_tsv)
    assert {"global_signal", "dvars", "t_comp_cor_00", "cosine00", "trans_x"} <= set(table)
    assert not {"csf", "white_matter", "a_comp_cor_00"} & set(table)


def test_a_slab_without_csf_has_the_other_tissue(made, tmp_path):
    """Thin partial field of view, as for a single structure."""
    paths = {"motion_tsv": made["paths"]["motion_tsv"], "tpms": []}
    sources = [made["paths"]["bold"], made["paths"]["bold_mask"], *made["paths"]["tpms"]]
    for number, source in enumerate(sources):
        image = nb.load(source)
        slab = np.asarray(image.dataobj)[:, :, 11:13] * (number < 4)
        path = tmp_path / source.name
        nb.save(nb.Nifti1Image(slab, image.affine, image.header), path)
        if number < 2:
            paths["bold" if number == 0 else "bold_mask"] = path
        else:
            paths["tpms"].append(path)
    table = read_table(run_interface(paths, tmp_path).confounds_tsv)
    assert {"white_matter", "w_comp_cor_00", "t_comp_cor_00"} <= set(table)
    assert not {"csf", "c_comp_cor_00"} & set(table)


@pytest.mark.parametrize("broken", ["rows", "column", "text", "nan"])
def test_motion_that_does_not_fit_is_refused(made, tmp_path, broken):
    table = read_table(made["paths"]["motion_tsv"])
    if broken == "rows":
        table = {name: values[:-1] for name, values in table.items()}
    elif broken == "column":
        del table["rot_y"]
    elif broken == "nan":
        table["rot_y"][7] = np.nan
    path = tmp_path / "motion.tsv"
    write_table(path, table)
    if broken == "text":
        path.write_text(path.read_text().replace("\n", "\nx", 1))
    with pytest.raises(InputError):
        run_interface({**made["paths"], "motion_tsv": path}, tmp_path)


def test_a_run_of_hardly_any_volumes_is_refused(made):
    motion = read_table(made["paths"]["motion_tsv"])
    with pytest.raises(InputError, match="steady"):
        compute_confounds(
            open_series(made["paths"]["bold"]),
            made["brain"],
            None,
            motion,
            tr=TR,
            n_dummy=N_VOLUMES - 2,
        )


def test_a_voxel_that_never_changes_harms_nothing(made, tmp_path):
    data = made["data"].astype(np.float32).copy()
    data[6:9, 6:9, 6:9] = 0
    image = nb.load(made["paths"]["bold"])
    path = tmp_path / "bold.nii.gz"
    nb.save(nb.Nifti1Image(data, image.affine, image.header), path)
    table = read_table(run_interface({**made["paths"], "bold": path}, tmp_path).confounds_tsv)
    assert all(np.isfinite(values[1:]).all() for values in table.values())


# --- volumes without an image --------------------------------------------------------------

EMPTY = [*range(30, 33), 60, *range(84, 90)]


@pytest.fixture(scope="module")
def spoilt(made, tmp_path_factory):
    """Compute the confounds of the series with ten volumes of zeros, as they are resampled."""
    folder = tmp_path_factory.mktemp("spoilt")
    data = made["data"].astype(np.float32)
    data[..., EMPTY] = 0
    image = nb.Nifti1Image(data, AFFINE)
    nb.save(image, folder / "bold.nii.gz")
    paths = {**made["paths"], "bold": folder / "bold.nii.gz"}
    return run_interface(paths, folder / "marked", unusable=EMPTY), run_interface(
        paths, folder / "unmarked"
    )


def test_unusable_volumes_are_the_marked_ones_and_sound_ones_are_not(outputs, spoilt):
    table, before = read_table(spoilt[0].confounds_tsv), read_table(outputs.confounds_tsv)
    marked = [
        int(np.flatnonzero(values)[0])
        for name, values in table.items()
        if name.startswith("motion_outlier")
    ]
    expected = [
        int(np.flatnonzero(values)[0])
        for name, values in before.items()
        if name.startswith("motion_outlier")
    ]
    assert marked == sorted({*expected, *EMPTY})
    # thresholds in other tools exclude them too
    assert (table["std_dvars"][EMPTY] > 5).all()
    sound = [t for t in range(N_DUMMY + 1, N_VOLUMES) if t not in EMPTY]
    direct = [t for t in sound if t - 1 not in EMPTY]
    np.testing.assert_allclose(table["std_dvars"][direct], before["std_dvars"][direct], rtol=0.06)
    assert table["std_dvars"][[33, 61]].max() < 1.5  # change from the last sound volume
    _, confused = spoilt
    without = read_table(confused.confounds_tsv)["std_dvars"]
    assert without[[33, 61]].min() > 5


def test_unusable_volumes_are_in_no_statistic(outputs, spoilt):
    truth, found, confused = (
        json.loads(Path(o.summary_json).read_text()) for o in (outputs, *spoilt)
    )
    assert found["UnusableVolumes"] == EMPTY
    assert truth["UnusableVolumes"] == []
    assert found["MedianTSNR"] == pytest.approx(truth["MedianTSNR"], rel=0.05)
    assert confused["MedianTSNR"] < 0.2 * truth["MedianTSNR"]
    assert found["MotionOutliers"]["Volumes"] == truth["MotionOutliers"]["Volumes"]
    assert found["StandardisedDVARS"]["Maximum"] == pytest.approx(
        truth["StandardisedDVARS"]["Maximum"], rel=0.05
    )


def test_components_come_from_the_usable_volumes(made, outputs, spoilt):
    found, before = (read_table(o.confounds_tsv) for o in (spoilt[0], outputs))
    sound = [t for t in range(N_DUMMY, N_VOLUMES) if t not in EMPTY]
    for name in ("c_comp_cor_00", "w_comp_cor_00"):
        assert not found[name][EMPTY].any()
        match = np.corrcoef(found[name][sound], before[name][sound])[0, 1]
        assert abs(match) > 0.98
    np.testing.assert_allclose(found["cosine00"], before["cosine00"])


def test_too_few_usable_volumes_are_refused(made, tmp_path):
    with pytest.raises(InputError, match="84 without a usable image"):
        run_interface(made["paths"], tmp_path / "few", unusable=list(range(6, N_VOLUMES)))
