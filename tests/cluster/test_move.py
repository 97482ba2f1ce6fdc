"""Moving a run between two machines: a real ssh server on loopback, a folder for each."""

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pytest
from people import USER, Person

from neuroferry.engine.record import list_runs, read_events, read_run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "containers" / "neuroferry"
CLUSTER = ROOT / "containers" / "test-cluster"
SLURM_CONF = Path("/var/lib/neuroferry-cluster/slurm.conf")
UNAVAILABLE = 69
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
THERE = 'the "other" machine\'s disk'


@pytest.fixture(scope="module")
def laptop():
    """An ordinary user on the machine that is left; the other machine is a folder beside."""
    folder = Path(tempfile.mkdtemp(prefix="neuroferry-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    someone = Person(folder, folder / "image.sif")
    shutil.copy(LAUNCHER, folder / "neuroferry")
    someone.own(folder)
    someone.make(folder / THERE)
    yield someone
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def slurm():
    """The SLURM that ``cluster`` is the login node of."""
    up = subprocess.run([CLUSTER, "up"], capture_output=True, text=True, check=False)
    if up.returncode == UNAVAILABLE:
        pytest.skip(up.stderr.strip().splitlines()[-1])
    assert up.returncode == 0, up.stderr
    assert up.stdout.strip() == str(SLURM_CONF)


@pytest.fixture(scope="module")
def network(laptop):
    """What makes ``ssh`` reach the servers: ``cluster``, and ``bare``, which has no rsync."""
    if SSHD is None or shutil.which("rsync") is None:
        pytest.skip("openssh-server and rsync are not installed and could not be")
    folder = laptop.make(laptop.folder / "ssh")
    for name in ("host", "key"):
        made = laptop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
        assert made.returncode == 0, made.stderr
    bare = laptop.make(folder / "bare")
    for tool in ("bash", "printf", "df", "awk", "dirname", "stat", "sha256sum", "true"):
        (bare / tool).symlink_to(shutil.which(tool))
    servers, hosts, ports = [], [], {}
    for name, force in (("cluster", ""), ("bare", f"ForceCommand env -i PATH={bare} bash -s")):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports[name] = probe.getsockname()[1]
        config = laptop.write(
            folder / f"sshd-{name}",
            f"Port {ports[name]}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/key.pub\nPasswordAuthentication no\nUsePAM no\n"
            f"KbdInteractiveAuthentication no\nStrictModes no\n"
            f"SetEnv SLURM_CONF={SLURM_CONF}\n{force}\n",
        )
        command = laptop.command(SSHD, "-D", "-e", "-f", config)
        log = (folder / f"log-{name}").open("w")
        servers.append(subprocess.Popen(command, stdout=log, stderr=log))
        hosts.append(f"Host {name}\n  Port {ports[name]}\n")
    public = (folder / "host.pub").read_text().split()[:2]
    known = laptop.write(
        folder / "known_hosts",
        "".join(f"[127.0.0.1]:{port} {' '.join(public)}\n" for port in ports.values()),
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        hosts.append(f"Host silent\n  Port {probe.getsockname()[1]}\n")
    hosts.append(f"Host stranger\n  Port {ports['cluster']}\n  User nobody\n")
    config = laptop.write(
        folder / "config",
        "".join(hosts) + f"Host *\n  HostName 127.0.0.1\n  User {USER}\n  BatchMode yes\n"
        f"  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  UserKnownHostsFile {known}\n",
    )
    wait_for(lambda: all(listens(port) for port in ports.values()), 20)
    yield {"RSYNC_RSH": f"ssh -F {config}"}
    for server in servers:
        family = [int(word) for word in children(server.pid)] or [server.pid]
        for pid in family:
            os.kill(pid, signal.SIGTERM)
        server.wait(20)


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain")


def checksums(folder, but=("*.lock",)):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(path.match(pattern) for pattern in but)
    }


def written(*words):
    """As the launcher writes words: one a line."""
    lines = [str(word).replace("\\", "\\\\").replace("\n", "\\n") for word in words]
    return "".join(f"{line}\n" for line in lines)


class Stopped:
    """What a run that was stopped half-way leaves, in folders with awkward names."""

    def __init__(self, laptop, name):
        self.laptop = laptop
        self.folder = laptop.make(laptop.folder / f"{name}: a 'study'")
        self.bids, self.out, self.work = (
            self.folder / name for name in ('data, "raw"', "results of it", "work $HOME *")
        )
        self.there = laptop.folder / THERE / f"{name} & more"
        for path, text in {
            self.bids / "dataset_description.json": "{}",
            self.bids / "participants.tsv": "participant_id\nsub-01\nsub-02\n",
            self.bids / "sub-02" / "anat" / "sub-02_T1w.nii": "of another run",
            self.bids / "derivatives" / "big.nii": "not needed",
            self.folder / "annex" / "key": "the image itself",
            self.folder / "my settings.toml": "",
            self.out / "sub-01" / "anat" / "it's [finished].nii": "finished",
            self.out / "logs" / ".sub-01.lock": "",
            self.work / "a node" / "_0x12.json": "done",
            self.work / "a node" / "result.pklz": "result",
        }.items():
            laptop.write(path, text)
        laptop.make(self.bids / "sub-01")
        laptop.make(self.bids / "sub-01" / "anat")
        (self.bids / "sub-01" / "anat" / "sub-01_T1w.nii").symlink_to(
            self.folder / "annex" / "key"
        )
        (self.bids / "sub-01" / "anat" / "sub-01_T2w.nii").symlink_to("annexed elsewhere")
        os.link(self.work / "a node" / "result.pklz", self.work / "a node" / "twin")
        (self.work / "a node" / "link").symlink_to("/work/a node/result.pklz")
        if not laptop.image.exists():
            laptop.write(laptop.image, "an image " * 1000)
        self.log = self.out / "logs" / "20260101T000000Z-abc"
        started = {"event": "run_started", "run_id": self.log.name, "subjects": ["01"]}
        laptop.write(self.log / "events.jsonl", json.dumps(started) + "\n")
        note = written(
            f"image={laptop.image}",
            f"/settings/config.toml={self.folder / 'my settings.toml'}",
            f"/bids={self.bids}",
            f"/out={self.out}",
            f"/work={self.work}",
            "--",
            *("/bids", "/out", "participant", "--plugin", "MultiProc", "--mem=1", "--nprocs", 1),
            *("--participant-label", "01", "--config=/settings/config.toml", "-w", "/work"),
        )
        laptop.write(self.log / "launch", note)
        for path in self.folder.rglob("*"):
            if not path.is_symlink():
                laptop.own(path)

    def move(self, network, *options, host="cluster"):
        return self.laptop.launch("move", self.out, f"{host}:{self.there}", *options, env=network)

    def fetch(self, network, *options):
        return self.laptop.launch(
            "fetch", f"cluster:{self.there}", self.out, *options, env=network
        )


@pytest.fixture
def stopped(laptop, request):
    return Stopped(laptop, request.node.name)


def fails(result, code, *says):
    """Ended with that exit code, and a last line that is one sentence and says so."""
    assert result.returncode == code, result.stdout + result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("neuroferry: ")
    for text in says:
        assert text in last


def test_takes_everything_along_and_does_not_start(stopped, network):
    planned = stopped.move(network, "--no-start", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not stopped.there.exists()

    result = stopped.move(network, "--no-start", "--plugin", "MultiProc", "--", "--mem", "64G")
    assert result.returncode == 0, result.stderr
    assert checksums(stopped.out) == checksums(stopped.there / "out")
    assert checksums(stopped.work) == checksums(stopped.there / "work")
    moved = checksums(stopped.there / "bids")
    assert set(moved) == {
        "dataset_description.json",
        "participants.tsv",
        "sub-01/anat/sub-01_T1w.nii",
    }
    data = stopped.there / "bids" / "sub-01" / "anat" / "sub-01_T1w.nii"
    assert data.read_text() == "the image itself"
    assert not data.is_symlink()
    node = stopped.there / "work" / "a node"
    assert node.joinpath("twin").samefile(node / "result.pklz")
    assert str((node / "link").readlink()) == "/work/a node/result.pklz"
    assert not (stopped.there / "out" / "logs" / ".sub-01.lock").exists()
    for path in (stopped.work / "a node" / "result.pklz", stopped.log / "events.jsonl"):
        other = stopped.there / path.relative_to(stopped.folder).as_posix().replace(
            stopped.work.name, "work"
        ).replace(stopped.out.name, "out")
        assert other.stat().st_mtime_ns == path.stat().st_mtime_ns
    assert (stopped.there / "neuroferry.sif").read_bytes() == stopped.laptop.image.read_bytes()
    assert (stopped.there / "neuroferry").read_bytes() == LAUNCHER.read_bytes()
    start = (stopped.there / "start").read_text().splitlines()[-1]
    assert shlex.split(start) == [
        *("exec", "./neuroferry", "bids", "out", "participant", "--participant-label", "01"),
        *("--config=settings/config.toml", "-w", "work", "--plugin", "MultiProc"),
        *("--mem", "64G", "$@"),
    ]
    assert os.access(stopped.there / "start", os.X_OK)

    (stopped.work / "a node" / "_0x12.json").rename(stopped.work / "a node" / "_0x34.json")
    again = stopped.move(network, "--no-start")
    assert again.returncode == 0, again.stderr
    assert "image is already there" in again.stderr
    assert checksums(stopped.work) == checksums(stopped.there / "work")


def test_a_folder_that_was_moved_again_names_the_way(stopped, network):
    assert stopped.move(network, "--no-start").returncode == 0
    out = stopped.there / "out"
    (stopped.there / "start").unlink()
    for command, says in (
        ("resubmit", "whole command again"),
        ("cancel", "belong to the other machine's scheduler"),
    ):
        fails(stopped.laptop.run(stopped.there / "neuroferry", command, out), 66, says)


def test_shows_progress_on_a_terminal(stopped, network):
    command = shlex.join(
        [
            str(stopped.laptop.folder / "neuroferry"),
            *("move", str(stopped.out), f"cluster:{stopped.there}", "--no-start"),
        ]
    )
    result = stopped.laptop.run("script", "-qec", command, "/dev/null", env=network)
    assert result.returncode == 0, result.stdout
    assert "100%" in result.stdout
    assert "all files are there and checked" in result.stdout


def test_same_size_and_time_is_not_the_same_file(stopped, network):
    assert stopped.move(network, "--no-start").returncode == 0
    path = stopped.there / "work" / "a node" / "result.pklz"
    state = path.stat()
    path.write_text("rotten")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    image = stopped.there / "neuroferry.sif"
    state = image.stat()
    image.write_text("an imagE " * 1000)
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert stopped.move(network, "--no-start").returncode == 0
    assert path.read_text() == "result"
    assert image.read_bytes() == stopped.laptop.image.read_bytes()


def slow_move(stopped, network, kilobytes):
    """Start to move, over a line of so many kilobytes a second."""
    slow = stopped.laptop.write(
        stopped.laptop.folder / f"slow-{kilobytes}" / "rsync",  # no colon, which PATH splits at
        f'#!/bin/sh\nexec {shutil.which("rsync")} --bwlimit={kilobytes} "$@"\n',
    )
    slow.chmod(0o755)
    command = stopped.laptop.command(
        stopped.laptop.folder / "neuroferry",
        *("move", stopped.out, f"cluster:{stopped.there}", "--no-start"),
        env={**network, "PATH": f"{slow.parent}:{os.environ['PATH']}"},
    )
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_copy_goes_on(stopped, network):
    big = stopped.work / "a node" / "big.npy"
    big.write_bytes(os.urandom(30_000_000))
    stopped.laptop.own(big)
    node = stopped.there / "work" / "a node"
    moving = slow_move(stopped, network, kilobytes=2500)
    wait_for(
        lambda: (
            any(path.stat().st_size > 5_000_000 for path in node.glob(".big.npy.*"))
            or moving.poll() is not None
        ),
        60,
    )
    assert moving.poll() is None, moving.communicate()
    pid = int(children(moving.pid)[0]) if os.getuid() == 0 else moving.pid
    os.kill(pid, signal.SIGINT)
    _, says = moving.communicate(timeout=60)
    assert moving.returncode == 130, says
    assert "same command continues" in says.splitlines()[-1]
    kept = wait_for(lambda: list(node.glob(".rsync-partial/big.npy")), 20)
    assert kept[0].stat().st_size > 2_000_000
    assert not (stopped.there / "start").exists()

    result = stopped.move(network, "--no-start")
    assert result.returncode == 0, result.stderr
    assert checksums(stopped.work) == checksums(stopped.there / "work")


def test_data_that_are_there_already(stopped, network):
    data = stopped.laptop.folder / THERE / "data of all"
    copied = stopped.laptop.run("cp", "-rL", f"{stopped.bids}/participants.tsv", stopped.folder)
    assert copied.returncode == 0
    shutil.copytree(stopped.bids, data, ignore=shutil.ignore_patterns("*_T2w.nii"))
    result = stopped.move(network, "--no-start", f"--bids={data}")
    assert result.returncode == 0, result.stderr
    start = shlex.split((stopped.there / "start").read_text().splitlines()[-1])
    assert start[2] == str(data)
    assert not any((stopped.there / "bids").iterdir())

    (data / "sub-01" / "anat" / "sub-01_T1w.nii").write_text("another image")
    fails(stopped.move(network, "--no-start", "--bids", data), 65, "sub-01_T1w.nii")
    fails(stopped.move(network, "--no-start", "--bids", "/nowhere"), 66, "/nowhere")


def test_a_run_under_way_is_not_moved(stopped, network):
    with (stopped.out / "logs" / ".sub-01.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(stopped.move(network), 75, "sub-01", "still active")
    assert not stopped.there.exists()
    stopped.laptop.write(stopped.log / "slurm" / "jobs.tsv", "pack\t1\n")
    fails(stopped.move(network), 75, stopped.log.name)


def test_what_the_other_side_has_is_safe(stopped, network):
    stopped.laptop.make(stopped.there)
    stopped.laptop.write(stopped.there / "work" / "thesis.tex", "mine")
    fails(stopped.move(network), 73, "something else")
    shutil.rmtree(stopped.there)
    assert stopped.move(network, "--no-start").returncode == 0
    later = stopped.there / "out" / "logs" / "20270101T000000Z-def"
    stopped.laptop.write(later / "events.jsonl", "")
    fails(stopped.move(network, "--no-start"), 75, later.name, "fetch")
    with (stopped.there / "out" / "logs" / ".sub-01.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fails(stopped.fetch(network), 75, "sub-01", "status")


def test_fetch_keeps_what_is_newer_here(stopped, network):
    assert stopped.move(network, "--no-start").returncode == 0
    report = stopped.laptop.write(stopped.there / "out" / "sub-01.html", "finished there")
    mine = stopped.out / "sub-01" / "anat" / "it's [finished].nii"
    other = stopped.there / "out" / mine.relative_to(stopped.out)
    other.write_text("as it was there")
    os.utime(other, (1, 1))
    result = stopped.fetch(network)
    fails(result, 73, "newer here")
    assert mine.name in result.stderr
    assert mine.read_text() == "finished"
    assert (stopped.out / "sub-01.html").read_text() == report.read_text()
    overwritten = stopped.fetch(network, "--overwrite", "--work")
    assert overwritten.returncode == 0, overwritten.stderr
    assert mine.read_text() == "as it was there"
    assert checksums(stopped.there / "work") == checksums(Path(f"{stopped.out}-work"))


def test_work_that_went_on_there_is_kept(stopped, network):
    assert stopped.move(network, "--no-start").returncode == 0
    later = stopped.there / "out" / "logs" / "20270101T000000Z-def"
    stopped.laptop.write(later / "events.jsonl", "")
    note = written("image=/x.sif", f"/out={stopped.there / 'out'}", "--", "/bids", "/out")
    stopped.laptop.write(later / "launch", note)
    new = stopped.laptop.write(stopped.there / "work" / "next node" / "result.pklz", "new")
    assert stopped.fetch(network).returncode == 0
    again = stopped.move(network, "--no-start")
    assert again.returncode == 0, again.stderr
    assert "work folder there is ahead" in again.stderr
    assert new.read_text() == "new"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["move", "{out}", "silent:/x"], 69, "refused"),
        (["move", "{out}", "stranger:/x"], 69, "denied"),
        (["move", "{out}", "bare:/x"], 69, "rsync is not available"),
        (["move", "{out}", "cluster:/proc/x"], 73, "/proc"),
        (["move", "{out}", "nocolon"], 64, "USER@HOST:/path"),
        (["move", "{out}", "cluster:/x", "--fast"], 64, "--fast"),
        (["move", "{out}"], 64, "Usage"),
        (["move", "{folder}", "cluster:/x"], 66, "no run"),
        (["move", "/nowhere", "cluster:/x"], 66, "/nowhere"),
        (["fetch", "cluster:/nowhere", "{out}"], 66, "no run"),
    ],
)
def test_says_what_is_wrong(laptop, network, request, words, code, says):
    stopped = Stopped(laptop, request.node.callspec.indices["words"])
    words = [word.format(out=stopped.out, folder=stopped.folder) for word in words]
    fails(laptop.launch(*words, env=network), code, says)


@pytest.fixture
def small_disk(stopped):
    """A disk of 40 MB on the other side."""
    if os.getuid() != 0:
        pytest.skip("only root can make a small disk")
    stopped.laptop.make(stopped.there)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40M,mode=777", "tmpfs", stopped.there], check=False
    )
    if mounted.returncode:
        pytest.skip("this root cannot mount a small disk")
    yield stopped.there
    subprocess.run(["umount", "--lazy", stopped.there], check=True)


def test_a_disk_that_is_too_small(stopped, network, small_disk):
    (stopped.work / "a node" / "big").write_bytes(bytes(50_000_000))
    fails(stopped.move(network), 74, "too small")
    assert not any(small_disk.iterdir())


def test_a_disk_that_fills_up(stopped, network, small_disk):
    big = stopped.work / "a node" / "big"
    big.write_bytes(os.urandom(30_000_000))
    stopped.laptop.own(big)
    moving = slow_move(stopped, network, kilobytes=8000)
    wait_for(
        lambda: list((small_disk / "work" / "a node").glob(".big.*")) or moving.poll() is not None,
        60,
    )
    assert moving.poll() is None, moving.communicate()
    full = small_disk / "filler"
    with suppress(OSError), full.open("wb", buffering=0) as filler:
        while filler.write(bytes(65536)):
            pass
    _, says = moving.communicate(timeout=60)
    assert moving.returncode == 74, says
    assert "disk is full" in says.splitlines()[-1]
    full.unlink()
    assert stopped.move(network, "--no-start").returncode == 0
    assert checksums(stopped.work) == checksums(small_disk / "work")


OPTIONS = ("participant", "--participant-label", "01", "--sloppy", "--plugin", "MultiProc")


@pytest.fixture(scope="module")
def image(laptop, network, built):
    """The environment of the laptop's user, with the image."""
    path = laptop.folder / "image to move.sif"
    try:
        os.link(built, path)
    except OSError:
        shutil.copyfile(built, path)
    return {**network, "NEUROFERRY_SIF": str(path)}


@pytest.fixture(scope="module")
def heads(laptop, image):
    """A dataset of two phantoms."""
    bids = laptop.folder / "two heads"
    made = laptop.launch(
        "phantom", bids, "--subjects", 2, "--resolution=3", "--seed", 1, env=image
    )
    assert made.returncode == 0, made.stderr
    return bids


@pytest.fixture(scope="module")
def half(laptop, image, heads):
    """The output folder of a run that Ctrl-C ended half-way."""
    out = laptop.folder / "half, then moved"
    command = laptop.command(laptop.folder / "neuroferry", heads, out, *OPTIONS, env=image)
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: run.poll() is not None or half_done(out), 900)
    os.kill(int(children(run.pid)[0]) if os.getuid() == 0 else run.pid, signal.SIGINT)
    _, says = run.communicate(timeout=120)
    assert run.returncode == 130, says
    return out


@pytest.fixture(scope="module")
def whole(laptop, image, heads):
    """The output folder of the same run, left alone."""
    out = laptop.folder / "whole"
    result = laptop.launch(heads, out, *OPTIONS, env=image)
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def outgrown(laptop, image, heads):
    """The output folder of a run with too little memory for one of its steps, and what it said."""
    out = laptop.folder / "out of memory, then moved"
    result = laptop.launch(heads, out, *OPTIONS, "--mem=400MB", env=image)
    assert result.returncode == 1, result.stderr
    return out, result.stderr


@pytest.mark.slow
def test_a_run_that_outgrew_the_laptop_is_finished_on_the_cluster(
    laptop, image, slurm, outgrown, whole
):
    out, says = outgrown
    (before,) = list_runs(out)
    (failed,) = read_run(before).failed
    assert failed.step.endswith(".carry_to_template")
    assert failed.message is not None
    assert "this run may use 0.4 GB" in failed.message
    assert "0.4 GB is not enough even for this step alone: plan with at least" in failed.message
    for text in (says, failed.message):
        assert "neuroferry move OUTPUT_DIR USER@HOST:/path" in " ".join(text.split())
    there = laptop.folder / THERE / "out of memory: now with enough"

    moved = laptop.launch("move", out, f"cluster:{there}", "--plugin", "SLURMGraph", env=image)
    assert moved.returncode == 0, moved.stderr
    assert "To see its progress: ssh cluster" in moved.stderr
    assert_finished(laptop, image, there, "SLURMGraph", whole, done(before))


@pytest.mark.slow
def test_a_run_killed_half_way_is_finished_elsewhere(laptop, image, half, whole):
    (before,) = list_runs(half)
    there = laptop.folder / THERE / "half: a run"
    moved = laptop.launch(
        "move", half, f"cluster:{there}", "--no-start", "--plugin", "MultiProc", env=image
    )
    assert moved.returncode == 0, moved.stderr
    elsewhere = {"NEUROFERRY_SIF": str(there / "neuroferry.sif")}
    foreign = laptop.run(there / "neuroferry", "cancel", there / "out", env=elsewhere)
    fails(foreign, 66, "started elsewhere")
    # the same as ./start: nothing on this machine lies where it did on the other
    resumed = laptop.run(there / "neuroferry", "resubmit", there / "out", env=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    assert_finished(laptop, image, there, "MultiProc", whole, done(before))


def assert_finished(laptop, image, there, plugin, whole, before):
    """A run that was moved ended well; no step of ``before`` ran again; its results come home."""
    assert before
    _, after = wait_for(lambda: both_ended(there / "out"), 1800)
    assert read_run(after).exit_code == 0, read_run(after).failed
    assert read_run(after).plugin == plugin
    again = done(after)
    assert again
    assert not before & again
    assert before | again == done(list_runs(whole)[0])
    report = there / "out" / "sub-01.html"
    wait_for(report.exists, 120)
    status = laptop.run(
        there / "neuroferry",
        *("status", there / "out"),
        env={"NEUROFERRY_SIF": str(there / "neuroferry.sif")},
    )
    assert status.returncode == 0, status.stderr

    home = laptop.folder / f"home again from {plugin}"
    fetched = laptop.launch("fetch", f"cluster:{there}", home, env=image)
    assert fetched.returncode == 0, fetched.stderr
    assert (home / "sub-01.html").read_bytes() == report.read_bytes()
    assert_report_opens(home / "sub-01.html")
    expected = checksums(whole / "sub-01")
    assert any(name.endswith("_dseg.nii.gz") for name in expected)
    assert checksums(home / "sub-01") == expected


def assert_report_opens(report):
    """Everything that the page shows is there."""
    text = report.read_text()
    assert "</html>" in text
    named = re.findall(r'(?:src|data)="(?!data:|http|#)([^"]+)"', text)
    assert [name for name in named if not (report.parent / unquote(name)).exists()] == []


def half_done(out):
    runs = list_runs(out)
    steps = read_run(runs[0]).n_steps if runs else 0
    return steps and len(done(runs[0])) >= steps / 2


def done(run_dir):
    """The steps that a run's record says were computed in it."""
    events = read_events(run_dir / "events.jsonl")
    return {
        entry["step"] for entry in events if entry["event"] == "step_done" and not entry["cached"]
    }


def both_ended(out):
    runs = list_runs(out)
    return len(runs) == 2 and all(read_run(run).exit_code is not None for run in runs) and runs
