"""Awkward names and signatures, with the real image and the real Apptainer."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from people import APPTAINER, Person

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LAUNCHER = Path(__file__).resolve().parents[2] / "containers" / "neuroferry"
NO_INPUT, NO_PERMISSION = 66, 77
NAMES = (
    'it\'s a "name", with: colons',
    "two\nlines",
    "-rf --help",
    "back\\slash \\n %s",
    "$HOME `touch mark` $(touch mark) ${x:-$(touch mark)}",
    "'\";touch mark;\"'",
)


@pytest.fixture(scope="module")
def person(built):
    """An ordinary user with the launcher in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="neuroferry-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    image = folder / "image.sif"
    try:
        image.hardlink_to(built)
    except OSError:
        shutil.copyfile(built, image)
    shutil.copy(LAUNCHER, folder / "neuroferry")
    someone = Person(folder, image)
    someone.own(folder)
    yield someone
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_command_inside_the_image(person, name):
    """The image tells what it was told; then a job's script enters it again."""
    bids, out = person.folder / f"bids {name}", person.folder / f"out {name}"
    person.make(bids / "sub-01")
    person.write(bids / "dataset_description.json", '{"Name": "x", "BIDSVersion": "1.9.0"}')
    for folder in (bids, bids / "sub-01"):
        person.own(folder)
    done = person.launch("sbatch-script", bids, out)
    assert done.returncode == 0, done.stderr
    script = done.stdout.rpartition("exec ")[0] + '"${enter[@]}" python -c "$1"\n'
    script = script.replace(" neuroferry)\n", ")\n")
    seen = (
        "import json, os; from pathlib import Path;"
        "print(json.dumps([os.environ['NEUROFERRY_HOST_OUT'], os.listdir('/bids')]));"
        "Path('/out/seen').touch()"
    )
    done = person.run("bash", "-c", script, "bash", seen)
    assert done.returncode == 0, done.stderr
    host_out, names = json.loads(done.stdout)
    assert host_out == str(out)
    assert sorted(names) == ["dataset_description.json", "sub-01"]
    assert (out / "seen").exists()
    assert not [path for path in person.folder.rglob("*") if path.name == "mark"]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A small image, the key that signed it, and another."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "root").mkdir()
    for name in ("key", "other"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
        for words in (
            ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", private),
            ("pkey", "-in", private, "-pubout", "-out", public),
        ):
            subprocess.run(["openssl", *words], check=True, capture_output=True)
    for name in ("signed", "plain"):
        build = [APPTAINER, "--quiet", "build", folder / f"{name}.sif", folder / "root"]
        subprocess.run(build, check=True, capture_output=True)
    sign = [APPTAINER, "sign", "--key", folder / "key.pem", folder / "signed.sif"]
    subprocess.run(sign, check=True, capture_output=True)
    return folder


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(
    ("image", "asked", "code"),
    [
        ("signed", {"NEUROFERRY_VERIFY": "key.pub.pem"}, NO_INPUT),
        ("signed", {"NEUROFERRY_VERIFY": "other.pub.pem"}, NO_PERMISSION),
        ("plain", {"NEUROFERRY_VERIFY": "key.pub.pem"}, NO_PERMISSION),
        ("plain", {"NEUROFERRY_VERIFY": "1"}, NO_PERMISSION),
        ("plain", {"NEUROFERRY_VERIFY": "0"}, NO_INPUT),
        ("plain", {}, NO_INPUT),
    ],
)
def test_a_signature_is_verified_when_asked(keys, image, asked, code):
    """What is verified comes to the next complaint, which is about the folder."""
    done = subprocess.run(
        ["bash", LAUNCHER, "status", keys / "nowhere"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(keys), "NEUROFERRY_SIF": f"{keys}/{image}.sif"}
        | asked,
        cwd=keys,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    says = "is not signed with a known key" if code == NO_PERMISSION else "does not exist"
    assert says in done.stderr


def test_verifying_is_asked_for_by_an_option_too(keys):
    done = subprocess.run(
        ["bash", LAUNCHER, "--verify", "status", keys / "nowhere"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(keys), "NEUROFERRY_SIF": f"{keys}/plain.sif"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == NO_PERMISSION
