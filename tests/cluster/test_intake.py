"""From a scanner to a dataset and its page: DCMTK and Orthanc send what the phantom scanned."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
import zipfile
from contextlib import contextmanager

import pytest
from dicom_peers import echo, end, free_port, n_sent, orthanc, program, send, send_command, wait
from intake_service import Intake, images, intake, is_what_was_scanned, lacking, once
from pydicom import dcmread
from scanned_session import write_session

from neuroferry.phantom import BoldOptions, write_phantom_dataset
from neuroferry.phantom.dicom import (
    Patient,
    Scanner,
    faults,
    objects,
    read_session,
    write_dicom,
    write_objects,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(program("storescu") is None, reason="DCMTK is not installed"),
]
needs_orthanc = pytest.mark.skipif(program("Orthanc") is None, reason="Orthanc is not installed")
STORED = "Received Store Response (Success)"
IDENTIFYING = (b"Nobody", b"Invented", b"19010203", b"Nowhere Street")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    return write_session(tmp_path_factory.mktemp("scanned"))


@pytest.fixture(scope="module")
def scans(scanned):
    return read_session(scanned / "sub-01")


@pytest.fixture(scope="module")
def exported(scanned, tmp_path_factory):
    """Export the session as Siemens mosaics."""
    folder = tmp_path_factory.mktemp("exported")
    write_dicom(scanned, folder, form="mosaic")
    return folder


@pytest.fixture
def root(tmp_path):
    return tmp_path / "intake"


def all_of(folder):
    return sorted(folder.rglob("*.dcm"))


def of(scans, suffix):
    return next(one for one in scans if one.suffix == suffix)


def leaks(root, dicom):
    """Files outside the private ones whose name or content says who was scanned."""
    heads = [dcmread(path, stop_before_pixels=True) for path in all_of(dicom)]
    words = {*IDENTIFYING, *(str(head.PatientName).encode() for head in heads)}
    for head in heads:
        uids = head.SOPInstanceUID, head.SeriesInstanceUID, head.StudyInstanceUID
        words |= {uid.encode() for uid in uids}
    pattern = re.compile(b"|".join(map(re.escape, words)))
    hidden = {"names", "spool", "arrivals", "rejected"}
    return [
        path
        for path in root.rglob("*")
        if not (".intake" in path.parts and hidden & set(path.parts))
        and not path.name.startswith("queue.sqlite")
        and (
            pattern.search(path.name.encode())
            or (path.is_file() and pattern.search(path.read_bytes()))
        )
    ]


@pytest.mark.parametrize(
    ("form", "vendor"),
    [("mosaic", "siemens"), ("enhanced", "philips"), ("classic", "ge")],
)
def test_what_is_sent_becomes_a_dataset(scanned, scans, root, tmp_path, form, vendor):
    write_dicom(scanned, tmp_path / "dicom", form=form, vendor=vendor)
    paths = all_of(tmp_path / "dicom")
    with intake(root) as node:
        assert echo(node.port)
        done = send(node.port, [tmp_path / "dicom"])
        assert (done.returncode, n_sent(done)) == (0, len(paths))
        if vendor == "philips":  # which does not tell the polarity of field maps
            scans = [one for one in scans if one.suffix != "epi"]
        is_what_was_scanned(root, scans)
    assert leaks(root, tmp_path / "dicom") == []
    assert not any(word.decode() in node.said for word in IDENTIFYING)


@needs_orthanc
def test_orthanc_pushes_a_study_and_is_promised_its_safety(exported, scans, root, tmp_path):
    port = free_port()  # where Orthanc listens for the report
    with (
        intake(root, "--allow", f"ORTHANC@127.0.0.1:{port}") as node,
        orthanc(tmp_path / "o", port, peers={"NEUROFERRY": node.port}) as peer,
    ):
        studies = peer.take(all_of(exported))
        job = peer.store("NEUROFERRY", studies)
        assert job["FailedInstancesCount"] == 0
        assert job["InstancesCount"] == len(all_of(exported))
        is_what_was_scanned(root, scans)
        heads = [dcmread(path, stop_before_pixels=True) for path in all_of(exported)]
        report = peer.commit("NEUROFERRY", [(h.SOPClassUID, h.SOPInstanceUID) for h in heads])
        assert report["Status"] == "Success"
        assert len(report["Success"]) == len(heads)
        unknown = peer.commit("NEUROFERRY", [(heads[0].SOPClassUID, "1.2.3.4")])
        assert unknown["Status"] == "Failure"
        assert [one["SOPInstanceUID"] for one in unknown["Failures"]] == ["1.2.3.4"]


def test_only_who_is_allowed_is_answered(exported, root):
    paths = all_of(exported)[:1]
    with intake(root, "--allow", "SCANNER", "--aet", "HERE") as node:
        assert echo(node.port, called="HERE")
        assert not echo(node.port, called="THERE")
        assert not echo(node.port, called="HERE", calling="STRANGER")
        done = send(node.port, paths, called="HERE", calling="STRANGER")
        assert (done.returncode != 0, n_sent(done)) == (True, 0)
    assert "STRANGER" in node.said


def test_a_second_service_on_the_same_root_is_refused(root):
    with intake(root):
        assert once(root).returncode == 75


def begin_sending(node, paths, n_arrived):
    """Begin to send files in order; return once so many have arrived.

    DCMTK without TCP_NODELAY is slow enough for that: some 40 ms for each object.
    """
    command = send_command(node.port, paths)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    private = node.root / ".intake"
    wait(
        lambda: (
            sum(
                len(list(private.glob(f"{part}/**/*")))
                for part in ("receiving", "arrivals", "spool")
            )
            > n_arrived
        ),
        "objects",
    )
    return process


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_killed_while_receiving_nothing_acknowledged_is_lost(exported, scans, root, share):
    paths = all_of(exported)
    node = Intake(root)
    sender = begin_sending(node, paths, share * len(paths))
    node.kill()
    said, _ = sender.communicate(timeout=60)
    n_safe = said.count(STORED)
    assert 0 < n_safe < len(paths)
    with intake(root) as node:
        assert n_sent(send(node.port, paths[n_safe:])) == len(paths) - n_safe
        is_what_was_scanned(root, scans)


def test_killed_alone_its_node_leaves_the_port_to_the_next(exported, scans, root):
    paths, port = all_of(exported), str(free_port())
    node = Intake(root, "--port", port)
    sender = begin_sending(node, paths, 5)
    node.kill(alone=True)
    said, _ = sender.communicate(timeout=60)
    n_safe = said.count(STORED)
    with intake(root, "--port", port) as node:
        assert n_sent(send(node.port, paths[n_safe:] or paths[:1])) == max(1, len(paths) - n_safe)
        is_what_was_scanned(root, scans)


@pytest.mark.parametrize("where", ["spool", "scratch", "names/placing"])
def test_killed_while_converting_and_writing_it_goes_on(exported, scans, root, where):
    rng = random.Random(where)
    node = Intake(root)
    assert n_sent(send(node.port, [exported])) == len(all_of(exported))
    folder = root / ".intake" / where
    for _ in range(2):
        at_work_or_done(root, folder)
        time.sleep(rng.uniform(0, 0.2))
        node.kill()
        node = Intake(root)
    is_what_was_scanned(root, scans)
    assert end(node.process) == 0
    assert lacking(root, scans) == ""
    assert list((root / "bids").rglob("*.part")) == []


def at_work_or_done(root, folder, patience=15):
    """Wait until there is something in a folder, or another image in the dataset, or for long."""
    before, stop = set(images(root)), time.monotonic() + patience
    while time.monotonic() < stop:
        if (folder.is_dir() and any(folder.iterdir())) or set(images(root)) - before:
            return
        time.sleep(0.002)


def test_an_association_that_is_cut_off_harms_nothing(exported, scans, root):
    paths = all_of(exported)
    with intake(root) as node:
        sender = begin_sending(node, paths, 20)
        sender.kill()
        sender.wait()
        assert echo(node.port)
        aborted = send(node.port, paths[:30], options=["--abort"])
        assert n_sent(aborted) == 30
        assert n_sent(send(node.port, paths)) == len(paths)  # the scanner sends all again
        is_what_was_scanned(root, scans)


def test_the_same_objects_with_other_pixels_never_replace_the_first(scans, root, tmp_path):
    bold = of(scans, "T1w")
    patient, scanner = Patient("01"), Scanner()
    write_objects(tmp_path / "first", objects(bold, patient, scanner, "mosaic"))
    other = faults.change_pixels(objects(bold, patient, scanner, "mosaic"))
    write_objects(tmp_path / "second", other)
    with intake(root) as node:
        assert n_sent(send(node.port, [tmp_path / "first"])) == bold.n_slices
        is_what_was_scanned(root, [bold])
        send(node.port, [tmp_path / "second"])
        time.sleep(5)
        assert lacking(root, [bold]) == ""
    kept = [path for path in (root / ".intake").rglob("*") if path.is_file()]
    pixels = dcmread(next((tmp_path / "second").iterdir())).PixelData
    assert any(pixels in path.read_bytes() for path in kept if path.stat().st_size < 1 << 20)


def test_files_arrive_in_a_folder_slowly_and_in_any_order(exported, scans, root, tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    paths = all_of(exported)
    random.Random(1).shuffle(paths)
    with intake(root, "--folders", str(share)):
        for number, path in enumerate(paths):
            target = share / f"{number % 3}" / f"{number:04d}"
            target.parent.mkdir(exist_ok=True)
            content = path.read_bytes()
            with target.open("wb") as stream:
                stream.write(content[: len(content) // 2])
                stream.flush()
                if number % 20 == 0:
                    time.sleep(0.3)
                stream.write(content[len(content) // 2 :])
            clock = [0.0, 2**31, time.time()][number % 3]  # clocks of other machines
            os.utime(target, (clock, clock))
        is_what_was_scanned(root, scans)
    assert len([path for path in share.rglob("*") if path.is_file()]) == len(paths)


def test_a_zip_and_what_is_dropped_into_the_root_are_taken(exported, scans, root, tmp_path):
    packed = tmp_path / "export.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in all_of(exported)[::2]:
            archive.write(path, path.relative_to(exported))
    (root / "incoming").mkdir(parents=True)
    shutil.copy(packed, root / "incoming")
    for path in all_of(exported)[1::2]:
        shutil.copy(path, root / "incoming" / f"{path.parent.name}-{path.name}")
    done = once(root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lacking(root, scans) == ""
    assert [path for path in (root / "incoming").rglob("*") if path.is_file()] == []


def test_a_folder_that_vanishes_is_waited_for(exported, scans, root, tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    with intake(root, "--folders", str(share)) as node:
        share.rmdir()
        time.sleep(2)
        assert node.process.poll() is None
        shutil.copytree(exported, share)
        is_what_was_scanned(root, scans)
    assert str(share) in node.said


def test_what_is_no_image_is_said_and_harms_nothing(scans, exported, root, tmp_path):
    t1w = of(scans, "T1w")
    bad = root / "incoming" / "bad"
    bad.mkdir(parents=True)
    (bad / "notes.txt").write_text("not an image")
    (bad / "empty.dcm").touch()
    whole = all_of(exported)[-1].read_bytes()
    (bad / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    write_objects(root / "incoming" / "good", objects(t1w, Patient("01"), Scanner(), "mosaic"))
    done = once(root)
    assert done.returncode == 1, done.stdout
    assert "cut off" in done.stdout
    assert "no DICOM object" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert lacking(root, [t1w]) == ""
    assert all(path.exists() for path in (bad / "notes.txt", bad / "empty.dcm", bad / "cut.dcm"))


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_and_names_that_look_like_paths_stay_inside(scans, root, tmp_path):
    ds = next(objects(of(scans, "T1w"), Patient("../../evil"), Scanner(), "mosaic")).dataset
    ds.SOPInstanceUID = ds.SeriesInstanceUID = ds.StudyInstanceUID = "../../../../evil"
    ds.ProtocolName = ds.SeriesDescription = "anat-T1w_acq-../../evil"
    (root / "incoming").mkdir(parents=True)
    ds.save_as(root / "incoming" / "a.dcm")
    done = once(root)
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == [root]
    assert not [path for path in root.rglob("*") if path.name == "evil"]
    assert images(root) == {}


@contextmanager
def small_disk(folder, megabytes):
    """Mount a file system of a few MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_to_the_sender_and_nothing_is_lost(exported, scans, tmp_path):
    paths = all_of(exported)
    root = tmp_path / "disk" / "root"
    with small_disk(tmp_path / "disk", 260), intake(root) as node:
        filler = tmp_path / "disk" / "filler"
        filler.write_bytes(bytes(100 << 20))  # the node keeps 200 MB free
        refused = send(node.port, paths)
        assert n_sent(refused) == 0
        assert "OutOfResources" in refused.stdout + refused.stderr
        assert echo(node.port)
        filler.unlink()
        assert n_sent(send(node.port, paths)) == len(paths)
        is_what_was_scanned(root, scans)


@pytest.mark.slow
def test_a_scan_is_on_the_page_without_a_hand(tmp_path):
    dataset = tmp_path / "phantom"
    write_phantom_dataset(
        dataset,
        subjects=1,
        resolution=2.5,
        seed=4,
        bold=BoldOptions(12, resolution=5.0, fieldmaps=()),
    )
    write_dicom(dataset, tmp_path / "dicom", form="mosaic")
    root = tmp_path / "intake"
    with intake(root, "--quiet-seconds", "3", qc=True) as node:
        done = send(node.port, [tmp_path / "dicom"])
        assert done.returncode == 0
        sent = time.monotonic()
        wait(lambda: shows(node, "sub-01", "sub-01_T1w", "sub-01_task-blocks_bold"), "page", 300)
        print(f"on the page {time.monotonic() - sent:.1f} s after the last image")
        is_what_was_scanned(root, read_session(dataset / "sub-01"))
    for suffix in (
        "anat/sub-01_desc-iqms_T1w.json",
        "func/sub-01_task-blocks_desc-iqms_bold.json",
    ):
        assert (root / "qc" / "sub-01" / suffix).is_file()
    assert leaks(root, tmp_path / "dicom") == []


def shows(node, person, *names):
    """Whether the pages of a participant and of all of them show the quality of images."""
    assert "quality control failed" not in node.said, node.said
    page, overview = (node.root / "qc" / f"{name}.html" for name in (person, "index"))
    if not (page.exists() and overview.exists()):
        return False
    both = page.read_text(), overview.read_text()
    return all(f'id="{name}"' in both[0] and f"{person}.html#{name}" in both[1] for name in names)
