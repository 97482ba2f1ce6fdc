"""Packing, grouping and the text of the scripts, without SLURM."""

import pickle
import shutil
import subprocess
from copy import deepcopy

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nipype import Function, Node, Workflow
from nipype.interfaces.utility import IdentityInterface

from neuroferry.config import SlurmConfig, make_slurm_config
from neuroferry.engine import SLURMGraphPlugin
from neuroferry.engine.flatten import flatten
from neuroferry.engine.names import StepName
from neuroferry.engine.record import RunRecord, read_run
from neuroferry.engine.slurm import pack as pack_module
from neuroferry.engine.slurm.job import missing_before
from neuroferry.engine.slurm.manifest import job_needs, read_manifest
from neuroferry.engine.slurm.pack import StepPlan, pack_steps
from neuroferry.engine.slurm.scripts import (
    header,
    host_command,
    host_path,
    planned_variables,
)
from neuroferry.engine.slurm.units import split_graph
from neuroferry.errors import SchedulerError, UsageError


def same(x):
    return x


def step(name, after=(), *, small=True, mem_gb=0.2, n_procs=1, minutes=1.0):
    return StepPlan(name, name, name, n_procs, mem_gb, minutes, small, tuple(after))


def big(name, after=(), **needs):
    return step(name, after, small=False, **{"mem_gb": 4.0, "minutes": 60.0, **needs})


@st.composite
def graphs(draw):
    """Any acyclic graph of small and big steps."""
    steps = []
    for i in range(draw(st.integers(1, 14))):
        after = draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set()
        made = step if draw(st.booleans()) else big
        steps.append(made(f"s{i:02d}", sorted(after), n_procs=draw(st.sampled_from([1, 4]))))
    return steps


@given(graphs(), st.sampled_from(["node", "chain", "subject"]))
def test_every_step_is_in_one_pack_and_packs_wait_only_for_earlier_ones(steps, packing):
    packs = pack_steps(steps, packing)
    assert sorted(i for pack in packs for i in pack) == list(range(len(steps)))
    owner = {i: number for number, pack in enumerate(packs) for i in pack}
    for number, pack in enumerate(packs):
        assert all(owner[b] <= number for i in pack for b in steps[i].after)


@given(graphs())
def test_big_steps_side_by_side_stay_apart(steps):
    """No two big steps share a pack unless one waits for the other."""
    before: list[set[int]] = [set() for _ in steps]
    for i, one in enumerate(steps):
        for b in one.after:
            before[i] |= {b} | before[b]
    for pack in pack_steps(steps, "chain"):
        heavy = [i for i in pack if not steps[i].small]
        for i in heavy:
            assert all(i == j or i in before[j] or j in before[i] for j in heavy)


def test_chains_become_one_job():
    assert pack_steps([big("a"), big("b", [0]), big("c", [1])]) == [(0, 1, 2)]


def test_a_step_of_another_size_keeps_its_own_job():
    assert pack_steps([big("a"), big("b", [0], mem_gb=64.0)]) == [(0,), (1,)]


def test_a_small_step_does_not_hold_up_a_big_one():
    """It waits for both big ones, so in the job of either it would delay `d` as well."""
    packs = pack_steps([big("a"), big("b"), step("c", [0, 1]), big("d", [0]), big("e", [1])])
    assert (2,) in packs


def test_small_steps_that_share_a_job_stay_small_together():
    steps = [step("root", minutes=0.1)]
    steps += [step(f"s{i}", [0], minutes=4.0) for i in range(6)]
    packs = pack_steps(steps, "chain", small_minutes=10)
    assert all(sum(steps[i].minutes for i in pack) <= 10 for pack in packs)
    assert len(packs) < len(steps)


def test_what_a_job_asks_for():
    settings = SlurmConfig(mem_margin=0.5, mem_overhead_gb=1.0, time_margin=1.0)
    steps = [big("a", mem_gb=2.0, n_procs=4, minutes=20), step("b", minutes=1)]
    memory, cpus, minutes = job_needs(steps, settings)
    assert memory == pytest.approx((2.0 * 1.5 + 1.0) * 1e9 / 2**20, abs=1)
    assert cpus == 4
    assert minutes == 55  # twice 21, and 10 to start, in steps of 5
    limited = SlurmConfig(max_mem="2GB", max_minutes=30)
    assert job_needs(steps, limited)[0] == pytest.approx(2e9 / 2**20, abs=1)
    assert job_needs(steps, limited)[2] == 30


def subject(label, extra=False, mem_gb=0.2):
    wf = Workflow(f"sub_{label}_wf")
    inputnode = Node(IdentityInterface(["x"]), name="inputnode")
    inputnode.inputs.x = int(label)
    first = Node(Function(["x"], ["out"], same), name="first", mem_gb=mem_gb)
    second = Node(Function(["x"], ["out"], same), name="second", n_procs=2, mem_gb=3.0)
    wf.connect(inputnode, "x", first, "x")
    wf.connect(first, "out", second, "x")
    if extra:
        wf.connect(second, "out", Node(Function(["x"], ["out"], same), name="third"), "x")
    return wf


def plan(folder, subjects, **settings):
    wf = Workflow("study_wf", base_dir=str(folder))
    wf.add_nodes(subjects)
    plugin = SLURMGraphPlugin({"run_dir": folder / "logs" / "run", **settings})
    wf.run(plugin=plugin)
    return plugin, read_manifest(folder / "logs" / "run", 0)


def test_the_number_of_arrays_does_not_grow_with_the_subjects(tmp_path):
    few, _ = plan(tmp_path / "few", [subject(f"{i:02d}") for i in range(1, 4)], packing="node")
    many, _ = plan(tmp_path / "many", [subject(f"{i:02d}") for i in range(1, 31)], packing="node")
    assert few.n_arrays == many.n_arrays == 2
    assert many.n_jobs == 10 * few.n_jobs


def test_subjects_of_other_structure_or_size_have_arrays_of_their_own(tmp_path):
    parts = [subject("01"), subject("02"), subject("03", extra=True), subject("04", mem_gb=30.0)]
    _, manifest = plan(tmp_path, parts, packing="node")
    members = [[member.name for member in group.members] for group in manifest.groups]
    assert members[0] == ["sub-01", "sub-02"]
    assert sorted(members[1:]) == [["sub-03"], ["sub-04"]]


def test_an_array_asks_for_what_its_largest_subject_needs(tmp_path):
    parts = [subject("01", mem_gb=2.1), subject("02", mem_gb=3.9)]
    _, manifest = plan(tmp_path, parts, packing="node")
    (group,) = manifest.groups
    first = next(p for p in group.packs if any("first" in group.steps[i] for i in p.steps))
    assert first.mem_mb == pytest.approx((3.9 * 1.2 + 0.6) * 1e9 / 2**20, abs=1)


def test_subjects_are_found_in_any_workflow(tmp_path):
    """Iterables make independent parts; a join connects them."""
    wf = Workflow("w", base_dir=str(tmp_path))
    source = Node(IdentityInterface(["subject"]), name="source")
    source.iterables = [("subject", ["a", "b", "c"])]
    run = Node(Function(["x"], ["out"], same), name="run")
    wf.connect(source, "subject", run, "x")
    assert len(split_graph(flatten(deepcopy(wf)))) == 3
    plugin = SLURMGraphPlugin({"run_dir": tmp_path / "r"})
    wf.run(plugin=plugin)
    (group,) = read_manifest(tmp_path / "r", 0).groups
    assert [member.name for member in group.members] == ["subject_a", "subject_b", "subject_c"]
    assert plugin.n_arrays == 1


def test_finished_subjects_are_not_submitted(tmp_path):
    parts = [subject("01"), subject("02")]
    wf = Workflow("study_wf", base_dir=str(tmp_path))
    wf.add_nodes([parts[0]])
    wf.config["execution"] = {"remove_unnecessary_outputs": "false"}
    wf.run(plugin="Linear")
    wf = Workflow("study_wf", base_dir=str(tmp_path))
    wf.config["execution"] = {"remove_unnecessary_outputs": "false"}
    wf.add_nodes([subject("01"), subject("02")])
    plugin = SLURMGraphPlugin({"run_dir": tmp_path / "logs" / "run"})
    wf.run(plugin=plugin)
    (group,) = read_manifest(tmp_path / "logs" / "run", 0).groups
    assert [member.name for member in group.members] == ["sub-02"]
    assert plugin.n_steps == 4


def test_settings_reach_sbatch():
    settings = make_slurm_config(
        {"account": "my lab", "partition": "short", "extra": ["--exclusive"], "qos": "high"}
    )
    lines = header("g1p01", settings, 1000, 2, 30)
    for option in (
        "--account='my lab'",
        "--partition=short",
        "--qos=high",
        "--exclusive",
        "--mem=1000M",
        "--cpus-per-task=2",
        "--time=30",
        "--requeue",
        "--kill-on-invalid-dep=yes",
    ):
        assert f"#SBATCH {option}" in lines
    assert not any("constraint" in line for line in lines)


def test_a_setting_may_not_bring_lines_of_its_own():
    with pytest.raises(UsageError, match="one line"):
        make_slurm_config({"account": "x\nrm -rf /"})


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UsageError, match="partition"):
        SLURMGraphPlugin({"partitoin": "x"})


def test_dependencies_name_the_same_subjects_earlier_packs(tmp_path):
    plugin, _ = plan(tmp_path, [subject("01"), subject("02")], packing="node")
    text = plugin.submit_script.read_text()
    assert '    submit g1p01 "$1" "$2"\n    submit g1p02 "$1" "$2" g1p01\n' in text
    assert "in_chunks submit_g1 2 2" in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_what_is_written_passes_shellcheck(tmp_path):
    folder = tmp_path / 'it\'s a "folder"'
    folder.mkdir()
    prolog = ["module load 'apptainer'"]
    plugin, _ = plan(folder, [subject("01")], prolog=prolog, environ={"PYTHONPATH": "/a b"})
    scripts = sorted(plugin.submit_script.parent.glob("*.sh"))
    assert len(scripts) == 5
    subprocess.run(["shellcheck", *scripts], check=True)


def test_a_path_with_quotes_and_spaces_reaches_the_job(tmp_path):
    folder = tmp_path / 'it\'s a "folder" $HOME'
    folder.mkdir()
    plugin, manifest = plan(folder, [subject("01")], packing="subject")
    script = plugin.submit_script.parent / "g1p01.sh"
    shown = subprocess.run(
        ["bash", "-c", f'printf "%s\\n" {_run_argument(script.read_text())}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.rstrip("\n") == manifest.run_dir


def _run_argument(text):
    (line,) = (line for line in text.splitlines() if line.startswith("run="))
    return line.removeprefix("run=")


def test_jobs_start_what_planned_them():
    assert host_command({}, "/my python/bin/python") == "'/my python/bin/python' -m neuroferry"
    inside = {"APPTAINER_CONTAINER": "/my images/n.sif", "APPTAINER_BIND": "/data:/bids"}
    words = host_command(inside, "python")
    assert words == "apptainer --quiet exec --bind /data:/bids '/my images/n.sif' neuroferry"


def test_the_host_is_told_its_own_path(tmp_path):
    script = tmp_path / "submit.sh"
    assert host_path(script, {}) == str(script)
    path = type(tmp_path)("/out/logs/r/submit.sh")
    assert host_path(path, {"NEUROFERRY_HOST_OUT": "/home/me/x"}) == "/home/me/x/logs/r/submit.sh"
    assert host_path(path, {"APPTAINER_BIND": "/data/x:/out:rw"}) == "/data/x/logs/r/submit.sh"


def test_a_graph_that_has_changed_is_refused(tmp_path):
    from neuroferry.engine.slurm.job import run_pack

    plugin, manifest = plan(tmp_path, [subject("01")], packing="subject", source="config")
    other = Workflow("study_wf", base_dir=str(tmp_path))
    other.add_nodes([subject("01", extra=True)])
    with pytest.raises(SchedulerError, match="not the planned one"):
        run_pack(tmp_path / "logs" / "run", 0, "g1p01", 1, lambda _: flatten(other))
    assert plugin.n_jobs == 1
    assert manifest.source == "config"


def test_a_payload_finds_its_graph_again(tmp_path):
    from neuroferry.engine.record import read_run
    from neuroferry.engine.slurm.job import run_pack

    plan(tmp_path, [subject("01"), subject("02")], packing="subject")
    assert run_pack(tmp_path / "logs" / "run", 0, "g1p01", 2, pickle.loads) == 0
    run = read_run(tmp_path / "logs" / "run")
    assert {step.subject for step in run.steps} == {"02"}
    assert run.count("done") == 2


def connected(n):
    """Many short chains between a first and a last step, some steps of them big."""
    steps = [step("s00000")]
    for chain in range((n - 2) // 4):
        before = 0
        for place in range(4):
            name = f"s{len(steps):05d}"
            made = big if place == 2 and chain % 2 else step
            steps.append(made(name, [before]))
            before = len(steps) - 1
    ends = [i for i in range(1, len(steps)) if i % 4 == 0]
    return [*steps, step("s99999", ends)]


@pytest.mark.timeout(60)
def test_a_large_connected_graph_is_packed_in_time_that_grows_with_it():
    steps = connected(10_000)
    packs = pack_steps(steps)
    assert sorted(i for pack in packs for i in pack) == list(range(len(steps)))
    assert len(packs) < len(steps) / 2


def test_steps_are_compared_with_few_others(monkeypatch):
    followed: dict[int, int] = {}
    original = pack_module._Packs._reaches

    def counting(self, pack, neighbours, targets):
        followed[len(self._need)] = followed.get(len(self._need), 0) + 1
        return original(self, pack, neighbours, targets)

    monkeypatch.setattr(pack_module._Packs, "_reaches", counting)
    calls = []
    for n in (402, 802, 1602):
        followed.clear()
        pack_steps(connected(n))
        calls.append(sum(followed.values()))
    assert calls[2] < 2.5 * calls[1] < 6.25 * calls[0]


def test_a_graphics_processor_is_requested_for_the_steps_that_use_one(tmp_path):
    wf = Workflow("sub_01_wf")
    node = Node(Function(["x"], ["out"], same), name="train", mem_gb=2.0)
    node.inputs.x = 1
    node.plugin_args = {"gpus": 2}
    wf.add_nodes([node])
    plugin, manifest = plan(tmp_path, [wf], gpu_gres="gpu:a100")
    (group,) = manifest.groups
    assert [pack.gpus for pack in group.packs] == [2]
    text = (plugin.submit_script.parent / "g1p01.sh").read_text()
    assert "#SBATCH --gres=gpu:a100:2\n" in text
    assert "APPTAINER_NV=1" in text


def test_sites_that_refuse_memory_are_not_asked_for_it():
    lines = header("g1p01", make_slurm_config({"no_mem": True}), 1000, 2, 30)
    assert not any("--mem" in line for line in lines)


def test_variables_of_the_user_that_settings_go_over():
    settings = {"account": "lab", "extra": ["--reservation=mine", "-p short"]}
    found = planned_variables(make_slurm_config(settings))
    assert found == ["SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_RESERVATION"]


def test_steps_that_are_done_are_in_the_record_before_any_job_runs(tmp_path):
    def study():
        wf = Workflow("study_wf", base_dir=str(tmp_path))
        wf.config["execution"] = {"remove_unnecessary_outputs": "false"}
        wf.add_nodes([subject("01")])
        return wf

    study().run(plugin="Linear")
    shutil.rmtree(sorted(tmp_path.glob("study_wf/sub_01_wf/*"))[-1])
    plugin = SLURMGraphPlugin({"run_dir": tmp_path / "logs" / "run", "packing": "subject"})
    study().run(plugin=plugin)
    done = read_run(tmp_path / "logs" / "run").count("cached")
    assert 0 < done < plugin.n_steps
    assert plugin.n_jobs == 1


def test_a_job_that_starts_too_early_says_so(tmp_path):
    wf = Workflow("study_wf", base_dir=str(tmp_path))
    wf.add_nodes([subject("01")])
    graph = flatten(wf)
    nodes = list(nx.topological_sort(graph))
    part = graph.subgraph(nodes[-1:])
    record = RunRecord(tmp_path / "events.jsonl")
    before = sorted(StepName.of(node).text for node in graph.predecessors(nodes[-1]))
    assert missing_before(graph, part, record.path) == before
    for name in before:
        record.write("step_done", step=name, subject="01")
    assert missing_before(graph, part, record.path) == []
    record.write("step_failed", step=before[0], subject="01", message="bad")
    assert missing_before(graph, part, record.path) == before[:1]
