"""The submit script with an ``sbatch`` that only counts: limits, refusals, signals."""

import json
import os
import shlex
import shutil
import subprocess

import pytest

from neuroferry.config import SlurmConfig
from neuroferry.engine.slurm.manifest import Group, Manifest, Member, Pack
from neuroferry.engine.slurm.scripts import write_scripts

SBATCH = """\
#!/usr/bin/env bash
count=$(($(cat "$COUNTER" 2>/dev/null || echo 0) + 1))
echo "$count" >"$COUNTER"
echo "$*" >>"$COUNTER.calls"
if [[ ${REFUSE_AT-} == "$count" ]]; then
    echo 'sbatch: error: Batch job submission failed: Invalid "account" specified' >&2
    exit 1
fi
if [[ ${SLEEP_AT-} == "$count" ]]; then
    touch "$COUNTER.sleeps"
    command -p sleep 2
fi
echo "$((1000 + count));${CLUSTER-}"
"""
# the queue is what a file says; how many jobs there are in all is asked for without any format
SQUEUE = """\
#!/usr/bin/env bash
case $* in
    *--format=*) cat "$COUNTER.queue" 2>/dev/null; exit 0 ;;
    *) seq ${QUEUED:-0} ;;
esac
"""
SQUEUE_THAT_EMPTIES = """\
#!/usr/bin/env bash
[[ $* != *--format=* ]] || exit 0
count=$(($(cat "$COUNTER.looks" 2>/dev/null || echo 0) + 1))
echo "$count" >"$COUNTER.looks"
((count > 3)) || seq 9
"""
OTHERS = {
    "scancel": 'echo "$*" >>"$COUNTER.cancelled"',
    "squeue": SQUEUE,
    "sleep": 'echo "$*" >>"$COUNTER.slept"',
    "scontrol": "printf '%-23s = %s\\n' MaxArraySize 1001 MaxJobCount 100000",
}


class Site:
    """A machine with stand-ins for SLURM's programs, and a run to submit."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in {"sbatch": SBATCH, **OTHERS}.items():
            program = self.bin / name
            program.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
            program.chmod(0o755)
        self.run_dir = folder / "out" / "logs" / "run"

    def write(self, subjects, *, number=0, enter="true", **settings):
        members = tuple(Member(f"sub-{i}", str(i), 0, 0) for i in range(subjects))
        packs = (
            Pack("g1p01", (0,), 500, 1, 10),
            Pack("g1p02", (1,), 500, 1, 10, ("g1p01",)),
            Pack("g1p03", (2,), 500, 1, 10, ("g1p01", "g1p02")),
        )
        group = Group("g1", "x", ("a", "b", "c"), ((), (0,), (0, 1)), packs, members)
        asked = SlurmConfig(**settings)
        manifest = Manifest(number, "/out/logs/run", "config", asked, (group,), "7e57")
        self.script = write_scripts(manifest, self.run_dir, enter)
        return self

    def queue(self, *rows):
        """Put jobs into the queue, as squeue lists them."""
        (self.folder / "count.queue").write_text("".join(f"{row}\n" for row in rows))

    def program(self, name, text):
        (self.bin / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.bin / name).chmod(0o755)

    def start(self, script, **more):
        """Run one of the scripts in the folder of the run, as SLURM would."""
        folder = self.run_dir / "slurm"
        return subprocess.run(
            ["bash", folder / script, folder],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def events(self):
        try:
            lines = (self.run_dir / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    @property
    def arrays(self):
        """The words that ask for an array, in the calls of sbatch."""
        words = (word for call in self.calls for word in call.split())
        return [word for word in words if word.startswith("--array=")]

    def environment(self, **more):
        path = f"{self.bin}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "COUNTER": str(self.folder / "count"), **more}

    def submit(self, **more):
        return subprocess.run(
            ["bash", self.script],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self):
        return (self.folder / "count.calls").read_text().splitlines()

    @property
    def rows(self):
        return (self.run_dir / "slurm" / "jobs.tsv").read_text().splitlines()

    @property
    def cancelled(self):
        return (self.folder / "count.cancelled").read_text().split()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_one_call_a_pack_however_many_subjects(site):
    assert site.write(900).submit().returncode == 0
    assert len(site.calls) == 5
    assert "--array=1-900" in site.calls[0]
    assert "--dependency" not in site.calls[0]
    assert "--dependency=aftercorr:1001 " in site.calls[1]
    assert "--dependency=aftercorr:1001:1002 " in site.calls[2]
    assert "--dependency=afterany:1001:1002:1003 " in site.calls[3]
    assert "--begin=now+30minutes" in site.calls[4]


def test_arrays_stay_below_the_site_s_size(site):
    assert site.write(2500).submit().returncode == 0
    assert site.arrays == ["--array=1-1000"] * 6 + ["--array=1-500"] * 3
    firsts = [call.split()[-1] for call in site.calls[:-2:3]]
    assert firsts == ["1", "1001", "2001"]


def test_settings_go_over_what_the_site_says(site):
    site.write(20, max_array_size=11, tasks_at_once=4).submit()
    assert site.arrays == ["--array=1-10%4"] * 6


def test_what_does_not_fit_waits(site):
    done = site.write(100, max_submitted=101).submit(QUEUED="9")
    assert done.returncode == 0
    assert "the rest follows" in done.stderr
    assert site.arrays == ["--array=1-30"] * 3
    rows = (site.run_dir / "slurm" / "jobs.tsv").read_text().splitlines()
    assert rows[0].split("\t") == ["g1p01", "1001", "1", "30"]


def test_a_full_queue_is_an_error(site):
    done = site.write(5, max_submitted=10).submit(QUEUED="9")
    assert done.returncode == 75
    assert "no room" in done.stderr


def test_a_later_round_waits_for_room(site):
    site.write(5, max_submitted=10, number=1)
    (site.bin / "squeue").write_text(SQUEUE_THAT_EMPTIES)
    done = site.submit()
    assert done.returncode == 0, done.stderr
    assert "waiting up to ten minutes for room" in done.stderr
    assert (site.folder / "count.slept").read_text() == "10\n" * 2
    assert site.arrays == ["--array=1-2"] * 3


def test_a_later_round_does_not_wait_for_ever(site):
    site.write(5, max_submitted=10, number=1)
    done = site.submit(QUEUED="9")
    assert done.returncode == 75
    assert "no room" in done.stderr
    assert (site.folder / "count.slept").read_text() == "10\n" * 60


def test_a_refusal_cancels_what_was_submitted(site):
    done = site.write(5).submit(REFUSE_AT="3")
    assert done.returncode == 75
    assert 'Invalid "account" specified' in done.stderr
    assert len(site.calls) == 3
    assert site.cancelled == ["1001", "1002"]
    (event,) = site.events
    assert event["event"] == "run_ended"
    assert event["exit_code"] == 75
    assert "account" in event["reason"]


def test_an_answer_that_is_no_number_is_an_error(site):
    (site.bin / "sbatch").write_text("#!/usr/bin/env bash\necho Submitted\n")
    done = site.write(5).submit()
    assert done.returncode == 75
    assert "sbatch refused a job: Submitted" in done.stderr


def test_no_sbatch_is_an_error(site):
    for name in (*OTHERS, "sbatch"):
        (site.bin / name).unlink()
    (site.bin / "dirname").symlink_to(shutil.which("dirname"))
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, site.write(5).script],
        env={"PATH": str(site.bin)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert "sbatch is not available here" in done.stderr


def test_nothing_is_submitted_twice(site):
    site.write(5).submit()
    again = site.submit()
    assert again.returncode == 75
    assert "already been submitted" in again.stderr
    assert len(site.calls) == 5


def test_of_two_submissions_at_once_one_is_made(site):
    site.write(5)
    both = [
        subprocess.Popen(
            ["bash", site.script], env=site.environment(), stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    says = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 75]
    assert any("already been submitted" in text for text in says)
    assert len(site.calls) == 5


def test_the_run_is_submitted_without_a_watch_too(site):
    assert site.write(5, watch_minutes=0).submit().returncode == 0
    assert len(site.calls) == 4
    shutil.rmtree(site.run_dir / "slurm" / "submitted-0")
    done = site.write(5).submit(REFUSE_AT="9")
    assert done.returncode == 0
    assert [line.split("\t")[0] for line in site.rows] == [
        "g1p01",
        "g1p02",
        "g1p03",
        "steward",
    ] * 2


@pytest.mark.parametrize(("before", "let_go"), [(0, True), (1, True), (2, False)])
def test_jobs_that_cannot_start_are_let_go_then_given_up(site, before, let_go):
    site.write(5).submit()
    folder = site.run_dir / "slurm"
    (folder / "held.txt").write_text("1001_3\n" * before)
    site.queue(
        "1001|3|PENDING|launch failed requeued held|nf-g1p01.1-7e57",
        "1001|4|PENDING|JobHeldUser|nf-g1p01.1-7e57",
        "1002|3|PENDING|Dependency|nf-g1p02.1-7e57",
        "1004|N/A|PENDING|Dependency|nf-steward.0-7e57",
        "77|3|PENDING|launch failed requeued held|other",
    )
    site.program("scontrol", 'echo "$*" >>"$COUNTER.scontrol"')
    site.start("watch.sh")
    (event,) = site.events
    assert "1001_3 (nf-g1p01.1) could not be started" in event["message"]
    released = site.folder / "count.scontrol"
    if let_go:
        assert released.read_text() == "release 1001_3\n"
        assert not (folder / "given-up.txt").exists()
    else:
        assert not released.exists()
        assert site.cancelled == ["1001_3"]
        assert (folder / "given-up.txt").read_text() == "1001_3\n"
    assert [line.split("\t")[:2] for line in site.rows][-2:] == [
        ["watch", "1005"],
        ["watch", "1006"],
    ]


def test_a_steward_that_is_gone_is_sent_again_but_not_for_ever(site):
    site.write(5, retries=1).submit()
    for _ in range(3):
        site.start("watch.sh")
    names = [line.split("\t")[0] for line in site.rows]
    assert names[3:] == ["steward", "watch", "watch", "steward", "watch"]
    sent_again, ended = site.events
    assert "submitted again" in sent_again["message"]
    assert (ended["event"], ended["exit_code"]) == ("run_ended", 75)
    assert (
        "steward was lost" in ended["reason"] or "last job of the run was lost" in ended["reason"]
    )


ENDED = '{"time": "now", "event": "run_ended", "exit_code": 0}'


@pytest.mark.parametrize("sign", ["events.jsonl", "slurm/submitted-1/all"])
def test_the_watch_ends_with_the_round(site, sign):
    site.write(5).submit()
    (site.run_dir / sign).parent.mkdir(exist_ok=True)
    (site.run_dir / sign).write_text(f"{ENDED}\n")
    site.start("watch.sh")
    assert len(site.calls) == 5


def closing(site):
    """Words that close the record, as the steward's own program does."""
    return shlex.join(["bash", "-c", f"echo {shlex.quote(ENDED)} >>{site.run_dir}/events.jsonl"])


def test_the_steward_ends_the_watch(site):
    site.write(5, enter=closing(site)).submit()
    assert site.start("steward.sh").returncode == 0
    assert site.cancelled == ["1005"]


@pytest.mark.parametrize(("signal", "code", "calls"), [("HUP", 0, 5), ("TERM", 75, 2)])
def test_a_closed_terminal_does_not_stop_it_an_interruption_does(site, signal, code, calls):
    site.write(5)
    process = subprocess.Popen(
        ["bash", site.script],
        env=site.environment(SLEEP_AT="2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (site.folder / "count.sleeps").exists():
        assert process.poll() is None
    subprocess.run(["kill", f"-{signal}", str(process.pid)], check=True)
    assert process.wait() == code
    assert len(site.calls) == calls
