"""The image: built, then used by an ordinary user as people do on laptops and clusters."""

import hashlib
import json
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from people import APPTAINER, USER, Person

import neuroferry
from neuroferry.licences.terms import allows_commercial_use, licence_ids

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ROOT / "containers" / "neuroferry"
SHARE = "/usr/share/neuroferry"
HEAVY = "import bids, dipy, matplotlib.pyplot, nilearn, nipype, niworkflows, skimage"


@pytest.fixture(scope="module")
def person(built):
    """An ordinary user, with the image and the launcher in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="neuroferry-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    image = folder / "image.sif"
    try:
        os.link(built, image)
    except OSError:
        shutil.copyfile(built, image)
    shutil.copy(LAUNCHER, folder / "neuroferry")
    someone = Person(folder, image)
    someone.own(folder)
    yield someone
    shutil.rmtree(folder)


def no_network(person):
    """What to put before a command so that it has no network at all."""
    return ["unshare", "--net", "--"] if os.getuid() == 0 else ["unshare", "-r", "-n", "--"]


def checksums(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_is_small(built):
    assert built.stat().st_size <= 350e6


def test_is_not_built_twice(built):
    started = time.monotonic()
    again = subprocess.run(
        [ROOT / "containers" / "build"], capture_output=True, text=True, check=True
    )
    assert Path(again.stdout.strip()) == built
    assert time.monotonic() - started < 30
    assert (ROOT / "neuroferry.sif").resolve() == built


def test_says_its_version(person):
    result = person.run(APPTAINER, "run", person.image, "--version")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"neuroferry {neuroferry.__version__}"


def test_help_takes_under_half_a_second(person):
    def cpu():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    costs = []
    for _ in range(3):
        before = cpu()
        result = person.inside("neuroferry", "--help")
        costs.append(cpu() - before)
        assert result.returncode == 0, result.stderr
        assert "BIDS_DIR" in result.stdout
    assert min(costs) < 0.5


def test_own_test_passes(person):
    result = person.run(APPTAINER, "test", person.image)
    assert result.returncode == 0, result.stderr
    assert "all good" in result.stdout


def test_is_labelled(person):
    labels = person.run(APPTAINER, "inspect", "--labels", person.image).stdout
    assert f"org.opencontainers.image.version: {neuroferry.__version__}" in labels
    assert "BIDS_DIR" in person.run(APPTAINER, "run-help", person.image).stdout


def test_label_names_every_licence_inside(person):
    labels = person.run(APPTAINER, "inspect", "--json", "--labels", person.image).stdout
    label = json.loads(labels)["data"]["attributes"]["labels"]["org.opencontainers.image.licenses"]
    assert allows_commercial_use(label)
    named = set(licence_ids(label))
    assert {"Apache-2.0", "MPL-2.0", "GPL-3.0-or-later", "LicenseRef-ICBM152"} <= named
    bill = json.loads(person.inside("cat", f"{SHARE}/licences.spdx.json").stdout)
    expressions = {entry["name"]: entry["licenseDeclared"] for entry in bill["packages"]}
    assert "MPL-2.0" in licence_ids(expressions["mrtrix3"])
    for expression in expressions.values():
        for part in re.split(r" AND (?![^(]*\))", expression):
            assert named & set(licence_ids(part)), expression
    debian = person.inside("cat", f"{SHARE}/debian-packages.txt").stdout.splitlines()
    lock = (ROOT / "containers" / "requirements.txt").read_text()
    inside = {line.split()[0] for line in debian}
    inside |= set(re.findall(r"^(\S+?)==\S+ \\$", lock, re.MULTILINE))
    assert inside - set(expressions) == set()


def test_lists_its_licences_and_carries_its_notices(person):
    result = person.run(APPTAINER, "--quiet", "run", person.image, "licences")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^  mrtrix3 +\S+ +yes .*MPL-2.0", result.stdout, re.MULTILINE)
    assert re.search(r"The licences of all \d+ packages allow commercial use", result.stdout)
    assert person.launch("licences").stdout == result.stdout
    assert person.inside("cat", f"{SHARE}/NOTICE").stdout == (ROOT / "NOTICE").read_text()


def test_holds_no_program_that_forbids_commercial_use(person):
    for program in ("dwidenoise", "mrview", "dwipreproc"):
        assert person.inside("sh", "-c", f"command -v {program}").returncode != 0
    words = ["grep", "-rlaiE", "non-commercial (research|use|purposes)"]
    found = person.inside(*words, "/usr/lib/mrtrix3", "/usr/bin", "/opt/neuroferry/bin").stdout
    assert found == ""


def test_records_what_it_is_made_of(person):
    debian = person.inside("cat", "/usr/share/neuroferry/debian-packages.txt").stdout
    for package in ("mrtrix3", "graphviz", "python3.13"):
        assert re.search(rf"^{re.escape(package)} \d\S* \w+$", debian, re.MULTILINE)
    lock = person.inside("cat", "/usr/share/neuroferry/requirements.txt").stdout
    assert lock == (ROOT / "containers" / "requirements.txt").read_text()
    frozen = person.inside("/opt/neuroferry/bin/pip", "list", "--format", "json").stdout
    installed = {
        row["name"].lower().replace("_", "-"): row["version"] for row in json.loads(frozen)
    }
    locked = dict(re.findall(r"^(\S+?)==(\S+) \\$", lock, re.MULTILINE))
    assert locked
    assert {name: installed.get(name) for name in locked} == locked


def test_keeps_nothing_of_the_building_machine(person):
    script = (
        "ls -A /mnt /opt/source /etc/apt/sources.list /etc/apt/sources.list.d /root 2>/dev/null"
    )
    listing = person.inside("sh", "-c", script, options=["--contain"]).stdout
    assert not [
        line for line in listing.splitlines() if line and not line.endswith(":") and line[0] != "."
    ]
    assert person.inside("pip", "config", "list", options=["--contain"]).stdout == ""


@pytest.mark.parametrize("program", ["dwi2fod", "mrconvert", "mrdegibbs", "tckgen"])
def test_mrtrix_runs(person, program):
    result = person.inside(program, "-version")
    assert result.returncode == 0, result.stderr
    assert "3.0" in result.stdout


def test_prints_its_launcher(person):
    result = person.run(APPTAINER, "--quiet", "run", person.image, "launcher")
    assert result.returncode == 0, result.stderr
    assert result.stdout == LAUNCHER.read_text(encoding="utf-8")


def test_root_is_read_only(person):
    result = person.inside("sh", "-c", "touch /opt/x /usr/x /x")
    assert result.returncode != 0
    assert result.stderr.count("Read-only file system") == 3


@pytest.mark.parametrize(
    "options", [(), ("--cleanenv",), ("--contain", "--cleanenv"), ("--containall",)], ids="+".join
)
def test_everything_imports(person, options):
    result = person.inside("python", "-W", "error::ResourceWarning", "-c", HEAVY, options=options)
    assert result.returncode == 0, result.stderr


def test_home_that_cannot_be_written(person):
    home = person.make(person.folder / "frozen home")
    home.chmod(0o555)
    result = person.inside("python", "-c", HEAVY, options=["--home", home])
    assert result.returncode == 0, result.stderr
    assert list(home.iterdir()) == []


def test_nothing_leaks_in_from_the_host(person):
    stray = person.folder / "stray"
    site = person.home / ".local" / "lib" / "python3.13" / "site-packages"
    poison = "raise SystemExit('leaked')\n"
    for folder in (stray, site):
        person.write(folder / "nibabel.py", poison)
    person.write(stray / "sitecustomize.py", poison)
    person.write(site / "usercustomize.py", poison)
    person.write(person.home / ".nipype" / "nipype.cfg", "[execution]\nkeep_inputs = true\n")
    person.write(person.home / ".config" / "matplotlib" / "matplotlibrc", "image.cmap: hot\n")
    env = {"PYTHONPATH": str(stray), "PYTHONUSERBASE": str(person.home / ".local"), "LANG": "xx"}
    code = (
        "import json, locale, nibabel, nipype, matplotlib as m\n"
        "print(json.dumps([nibabel.__file__, nipype.config.get('execution', 'keep_inputs'),"
        " m.rcParams['image.cmap'], locale.getlocale()[1]]))"
    )
    result = person.inside("python", "-c", code, env=env)
    assert result.returncode == 0, result.stderr
    where, keep_inputs, cmap, encoding = json.loads(result.stdout)
    assert where.startswith("/opt/neuroferry/lib/python3.13/site-packages/")
    assert (keep_inputs, cmap, encoding) == ("false", "viridis", "UTF-8")


def test_a_name_taken_in_tmp_is_not_used(person):
    tmp = person.make(person.folder / "tmp taken")
    person.write(tmp / f"neuroferry-cache-{pwd.getpwnam(USER).pw_uid}", "a file, no folder\n")
    result = person.inside(
        "sh", "-c", 'echo "$MPLCONFIGDIR"', options=["--contain", "--bind", f"{tmp}:/tmp"]
    )
    assert re.fullmatch(r"/tmp/neuroferry-cache-\w{6}/matplotlib", result.stdout.strip())


@pytest.fixture(scope="module")
def dataset(person):
    """One phantom, written by the image through the launcher, in a folder with an awkward name."""
    folder = person.folder / 'a study, "new": part 1'
    result = person.launch("phantom", folder, "--subjects", 1, "--resolution=2", "--seed", 1)
    assert result.returncode == 0, result.stderr
    assert (folder / "dataset_description.json").exists()
    return folder


@pytest.mark.slow
def test_runs_the_bids_app_without_a_network(person, dataset):
    prefix = no_network(person)
    code = "import socket; socket.create_connection(('1.1.1.1', 53), timeout=2)"
    options = [] if os.getuid() == 0 else ["--userns"]
    isolated = person.inside("python", "-c", code, prefix=prefix, options=options)
    assert "Network is unreachable" in isolated.stderr
    interfaces = person.inside("cat", "/proc/net/dev", prefix=prefix, options=options).stdout
    assert re.findall(r"^\s*(\w+):", interfaces, re.MULTILINE) == ["lo"]

    link = person.folder / "linked study"
    link.symlink_to(dataset)
    out = person.folder / "results of it"
    before = checksums(dataset)
    result = person.launch(link, out, "participant", "--sloppy", "--write-graph", prefix=prefix)
    assert result.returncode == 0, result.stdout + result.stderr

    anat = out / "sub-01" / "anat"
    template = "MNI152NLin2009aSym"
    for name in (
        "desc-preproc_T1w.nii.gz",
        "desc-preproc_T1w.json",
        "desc-brain_mask.nii.gz",
        "dseg.nii.gz",
        "label-GM_probseg.nii.gz",
        "label-WM_probseg.nii.gz",
        "label-CSF_probseg.nii.gz",
        f"from-T1w_to-{template}_mode-image_xfm.h5",
        f"from-{template}_to-T1w_mode-image_xfm.h5",
        f"space-{template}_desc-preproc_T1w.nii.gz",
    ):
        assert (anat / f"sub-01_{name}").stat().st_size > 0, name
    assert (out / "sub-01.html").stat().st_size > 10_000
    digest = "sha256:" + hashlib.sha256(person.image.read_bytes()).hexdigest()
    description = json.loads((out / "dataset_description.json").read_text())
    assert description["GeneratedBy"][0]["Container"]["Digest"] == digest
    (log,) = (out / "logs").glob("*/events.jsonl")
    assert "extract_brain" in (log.parent / "graph.svg").read_text()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[0]["image"] == digest
    assert events[-1]["exit_code"] == 0
    assert any((person.folder / "results of it-work").iterdir())
    assert checksums(dataset) == before


def test_binds_what_the_options_name(person, dataset):
    config = person.write(person.folder / "my settings.toml", "[nonsense]\n")
    missing = person.launch(dataset, "out1", "participant", "--config", "nothing.toml")
    assert missing.returncode == 66
    assert "nothing.toml" in missing.stderr
    refused = person.launch(dataset, "out1", "participant", "--config", config)
    assert refused.returncode == 64
    assert "nonsense" in refused.stderr
    filters = person.write(person.folder / "filters.json", '["no object"]')
    refused = person.launch(dataset, "out1", "participant", f"--bids_filter_file={filters}")
    assert refused.returncode != 0
    assert f"filter file {filters} must" in refused.stderr
    bundles = person.write(person.folder / "my bundles.toml", 'space = "Talairach"\n')
    refused = person.launch(dataset, "out1", "participant", "--bundles", bundles)
    assert refused.returncode == 65
    assert "bundles.toml, the file: space must be" in refused.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nowhere", "out2", "participant"], 66, "nowhere"),
        (["{data}", "{data}/sub-01/out", "participant"], 64, "inside the dataset"),
        (["{data}", "{data}", "participant"], 64, "inside the dataset"),
        (["{data}", "out2", "participant", "-w", "{data}/work"], 64, "work folder"),
        (["{data}", "/proc/out", "participant"], 73, "/proc/out"),
        (["{data}", "out2", "everything"], 17, "everything"),
        (["{data}", "out2", "participant", "--no-such-option"], 64, "--no-such-option"),
        (["{data}", "out2", "participant", "--participant-label", "99"], 18, "99"),
    ],
)
def test_launcher_passes_exit_codes_and_says_what_is_wrong(person, dataset, words, code, says):
    before = checksums(dataset)
    result = person.launch(*(word.format(data=dataset) for word in words))
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert checksums(dataset) == before


def test_launcher_without_an_image(person):
    result = person.launch("--version", env={"NEUROFERRY_SIF": "/nowhere.sif"})
    assert result.returncode == 66
    assert "/nowhere.sif" in result.stderr


def test_launcher_as_root(person):
    if os.getuid() != 0:
        pytest.skip("this test is not run by root")
    env = os.environ | {"NEUROFERRY_SIF": str(person.image)}
    result = subprocess.run(
        [LAUNCHER, "--version"], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("neuroferry ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_launcher_passes_signals(person, number):
    out = person.folder / f"stopped-{number}"
    command = person.command(
        person.folder / "neuroferry", "phantom", out, "--subjects", 9, "--resolution", 1
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not (family := inside_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert family
    time.sleep(1)
    launcher = process.pid if os.getuid() != 0 else children(process.pid)[0]
    os.kill(launcher, number)
    assert process.wait(timeout=60) in (128 + number, -number, 130)
    time.sleep(1)
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


def children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def inside_of(pid):
    """The Python processes of the image below a process."""
    found, queue = [], [pid]
    while queue:
        try:
            queue += children(queue.pop(0))
            found += [
                child
                for child in queue
                if b"/opt/neuroferry/bin/" in Path(f"/proc/{child}/cmdline").read_bytes()
            ]
        except OSError:
            continue
    return sorted(set(found))


def test_launcher_knows_the_options_that_take_values():
    from neuroferry.cli import (
        cancel,
        dask_worker,
        demo,
        intake,
        licences,
        phantom,
        qc,
        resubmit,
        sbatch_script,
        status,
    )
    from neuroferry.cli.parser import build_parser

    text = LAUNCHER.read_text()
    known = {
        name: set(re.findall(rf"{name}='([^']*)'", text)[0].split())
        for name in ("TAKES_ONE", "TAKES_MORE")
    }
    parsers = [build_parser()]
    for module in (
        *(demo, licences, phantom, sbatch_script, status, resubmit, cancel, dask_worker),
        *(intake, qc),
    ):
        import argparse

        parsers.append(argparse.ArgumentParser())
        module.add_arguments(parsers[-1])
    one, more = set(), set()
    for action in (action for parser in parsers for action in parser._actions):
        if action.option_strings and action.nargs is None:
            one |= set(action.option_strings)
        elif action.option_strings and action.nargs in ("+", "*"):
            more |= set(action.option_strings)
    assert known == {"TAKES_ONE": one, "TAKES_MORE": more}
