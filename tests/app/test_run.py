"""The BIDS App from end to end on small phantoms: results, failures, resuming."""

import gzip
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from neuroferry.engine.record import list_runs, read_run

pytestmark = pytest.mark.slow
QUICK = ("--sloppy", "--skip-bids-validation")


def neuroferry(*arguments, **options):
    """Run the program as a user does."""
    command = [sys.executable, "-m", "neuroferry", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


def digests(root):
    """Compute the SHA-256 of every derivative, of images without their compression."""
    found = {}
    for path in sorted(root.glob("sub-*/**/*")):
        if path.is_file():
            data = path.read_bytes()
            data = gzip.decompress(data) if path.suffix == ".gz" else data
            found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


@pytest.fixture(scope="module")
def finished(phantom_bids, tmp_path_factory):
    """A finished run of one participant."""
    root = tmp_path_factory.mktemp("finished")
    done = neuroferry(
        *(phantom_bids, root / "out", "participant", "--participant-label", "01"),
        *("-w", root / "work", "--sloppy"),
    )
    assert done.returncode == 0, done.stderr
    return root, done


def test_everything_that_is_promised_is_there(finished):
    root, done = finished
    out = root / "out"
    for name in (
        "desc-preproc_T1w.nii.gz",
        "desc-preproc_T1w.json",
        "desc-brain_mask.nii.gz",
        "dseg.nii.gz",
        "label-GM_probseg.nii.gz",
        "from-T1w_to-MNI152NLin2009aSym_mode-image_xfm.h5",
        "from-MNI152NLin2009aSym_to-T1w_mode-image_xfm.h5",
        "space-MNI152NLin2009aSym_desc-preproc_T1w.nii.gz",
        "desc-iqms_T1w.json",
    ):
        assert (out / "sub-01" / "anat" / f"sub-01_{name}").stat().st_size > 0, name
    assert (out / "dataset_description.json").exists()
    assert (out / "sub-01.html").exists()
    assert (out / "index.html").exists()
    (folder,) = list_runs(out)
    run = read_run(folder)
    assert run.exit_code == 0
    assert run.count("done") == run.n_steps
    assert (folder / "config.toml").exists()
    assert "N4" in (folder / "methods_sub-01.md").read_text()
    assert f"Report: {out / 'sub-01.html'}" in done.stderr


def test_the_settings_of_a_run_run_it_again_and_nothing_is_computed_twice(finished):
    root, _ = finished
    before = digests(root / "out")
    first = list_runs(root / "out")[0]
    done = neuroferry("--config", first / "config.toml")
    assert done.returncode == 0, done.stderr
    run = read_run(list_runs(root / "out")[-1])
    assert run.count("cached") == run.n_steps
    assert digests(root / "out") == before


def test_a_work_folder_of_another_version_is_named(finished):
    root, _ = finished
    (root / "work" / ".neuroferry-version").write_text("0.0.1\n")
    done = neuroferry("--config", list_runs(root / "out")[0] / "config.toml")
    assert done.returncode == 0, done.stderr
    assert "was filled by neuroferry 0.0.1" in done.stderr
    again = neuroferry("--config", list_runs(root / "out")[0] / "config.toml")
    assert "was filled by" not in again.stderr


def test_lost_derivatives_are_written_again(finished):
    root, _ = finished
    before = digests(root / "out")
    shutil.rmtree(root / "out" / "sub-01")
    done = neuroferry("--config", list_runs(root / "out")[0] / "config.toml")
    assert done.returncode == 0, done.stderr
    assert digests(root / "out") == before


def test_reports_only(finished):
    root, _ = finished
    page = root / "out" / "sub-01.html"
    page.unlink()
    done = neuroferry("--config", list_runs(root / "out")[0] / "config.toml", "--reports-only")
    assert done.returncode == 0, done.stderr
    assert page.exists()


@pytest.mark.parametrize("plugin", ["Linear", "Dask"])
def test_another_plugin_gives_the_same_bytes(finished, phantom_bids, tmp_path, plugin):
    if plugin == "Dask":
        pytest.importorskip("distributed")
    root, _ = finished
    done = neuroferry(
        *(phantom_bids, tmp_path / "out", "participant", "--participant-label", "01"),
        *("-w", tmp_path / "work", "--plugin", plugin, *QUICK),
    )
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "out") == digests(root / "out")


def test_a_bad_participant_does_not_stop_the_others(finished, bids_copy, tmp_path):
    root, _ = finished
    image = bids_copy / "sub-02" / "anat" / "sub-02_T1w.nii.gz"
    image.write_bytes(image.read_bytes()[:-2000])
    shutil.copytree(root / "work", tmp_path / "work", symlinks=True)
    done = neuroferry(bids_copy, tmp_path / "out", "participant", "-w", tmp_path / "work", *QUICK)
    assert done.returncode == 1
    run = read_run(list_runs(tmp_path / "out")[-1])
    assert run.exit_code == 1
    assert any("sub-02_T1w.nii.gz" in problem["message"] for problem in run.problems)
    assert "sub-02" in done.stderr.splitlines()[-1]
    assert (tmp_path / "out" / "sub-01" / "anat" / "sub-01_dseg.nii.gz").exists()
    page = (tmp_path / "out" / "sub-02.html").read_text()
    assert "sub-02_T1w.nii.gz" in page


@pytest.mark.parametrize("spoil", ["empty", "nan", "constant", "truncated"])
def test_only_bad_participants(bids_copy, tmp_path, spoil):
    import nibabel as nb
    import numpy as np

    image = bids_copy / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    loaded = nb.load(image)
    data = loaded.get_fdata(dtype=np.float32)
    if spoil == "empty":
        image.write_bytes(b"")
    elif spoil == "truncated":
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    else:
        data[...] = np.nan if spoil == "nan" else 7.0
        nb.Nifti1Image(data, loaded.affine).to_filename(image)
    done = neuroferry(
        bids_copy, tmp_path / "out", "participant", "--participant-label", "01", *QUICK
    )
    assert done.returncode == 65, done.stderr
    assert "sub-01_T1w.nii.gz" in done.stderr
    assert (tmp_path / "out" / "sub-01.html").exists()


def test_no_dataset_description(bids_copy, tmp_path):
    (bids_copy / "dataset_description.json").unlink()
    done = neuroferry(bids_copy, tmp_path / "out", "participant", *QUICK)
    assert done.returncode == 16, done.stderr
    assert "dataset_description.json" in done.stderr


def start(bids, root):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "neuroferry", str(bids), str(root / "out"), "participant"),
            *("-w", str(root / "work"), "--participant-label", "02", *QUICK),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(read_run(folder).count("done") >= 3 for folder in list_runs(root / "out")):
            return process
        time.sleep(0.1)
    raise AssertionError(process.communicate())


def test_ctrl_c_leaves_a_state_that_goes_on_and_a_second_run_is_refused(phantom_bids, tmp_path):
    process = start(phantom_bids, tmp_path)
    second = neuroferry(
        *(phantom_bids, tmp_path / "out", "participant", "-w", tmp_path / "other"),
        *("--participant-label", "02", *QUICK),
    )
    assert second.returncode == 75, second.stderr
    assert f"process {process.pid} on" in second.stderr
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "to continue" in errors.splitlines()[-1]
    first = list_runs(tmp_path / "out")[0]
    done_before = {s.step for s in read_run(first).steps if s.state == "done"}
    assert read_run(first).exit_code == 130
    again = neuroferry("--config", first / "config.toml")
    assert again.returncode == 0, again.stderr
    run = read_run(list_runs(tmp_path / "out")[-1])
    assert done_before <= {s.step for s in run.steps if s.state == "cached"}


def in_small_disk(size, folder, *arguments):
    """Run with a separate small file system mounted at ``folder``."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$1" && shift && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    return subprocess.run(
        [*command, str(folder), sys.executable, "-m", "neuroferry", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("name", ["out", "work"])
def test_a_full_disk_is_said_and_ends_in_an_error(phantom_bids, tmp_path, name):
    small = tmp_path / name
    small.mkdir()
    done = in_small_disk(
        "300k",
        small,
        *(phantom_bids, tmp_path / "out", "participant", "-w", tmp_path / "work"),
        *("--participant-label", "01", *QUICK),
    )
    assert done.returncode in (1, 74), done.stderr
    assert "no space" in done.stderr.lower()
    assert "Traceback" not in done.stderr


def test_a_read_only_output_is_refused(phantom_bids, tmp_path):
    (tmp_path / "out").mkdir()
    done = in_small_disk(
        "1m,ro", tmp_path / "out", phantom_bids, tmp_path / "out", "participant", *QUICK
    )
    assert done.returncode == 73, done.stderr
    assert "is not writable" in done.stderr


def test_odd_names_of_folders(bids_copy, tmp_path):
    odd = tmp_path / "my data (ünï) & more"
    bids_copy.rename(odd)
    done = neuroferry(
        *(odd, tmp_path / "the 'output'", "participant", "--participant-label", "01"),
        *("--sloppy", "--workflows", "anat"),
    )
    assert done.returncode == 0, done.stderr
    metrics = list((tmp_path / "the 'output'").rglob("*desc-iqms*"))
    assert metrics == []
    sidecar = tmp_path / "the 'output'" / "sub-01" / "anat" / "sub-01_desc-preproc_T1w.json"
    assert json.loads(sidecar.read_text())["Sources"]


def test_the_graph_is_written_even_without_the_means_to_draw_it(finished, monkeypatch):
    root, _ = finished
    monkeypatch.setenv("PATH", "/nowhere")
    config = list_runs(root / "out")[0] / "config.toml"
    done = neuroferry("--config", config, "--write-graph")
    assert done.returncode == 0, done.stderr
    graph = list_runs(root / "out")[-1] / "graph.dot"
    assert "extract_brain" in graph.read_text()
    assert f"Graph: {graph}" in done.stderr
