import json
import shutil
from pathlib import Path

import pytest
from nipype import config as nipype_config
from nipype.interfaces import utility as niu
from nipype.interfaces.base import isdefined
from nipype.pipeline import engine as pe

from neuroferry.errors import InputError, NeuroferryError
from neuroferry.interfaces.derivatives import DerivativesNode, DerivativesSink, LabelledSink

BRAIN = {"subject": "01", "description": "brain"}


@pytest.fixture
def content_hashes():
    old = nipype_config.get("execution", "hash_method")
    nipype_config.set("execution", "hash_method", "content")
    yield
    nipype_config.set("execution", "hash_method", old)


def make_sink(tmp_path, **inputs):
    return DerivativesSink(
        out_dir=str(tmp_path / "out"),
        **{"entities": BRAIN, "suffix": "mask", "extension": ".nii.gz", **inputs},
    )


def write(path, content="bytes"):
    path.write_text(content)
    return str(path)


def test_bytes_are_copied_and_sidecars_written(tmp_path):
    score = write(tmp_path / "score.json", '{"confidence": 0.9}')
    source = write(tmp_path / "step.nii.gz", "mask")
    sink = make_sink(
        tmp_path,
        in_file=source,
        metadata={"Type": "Brain", "Sources": ["bids::x"]},
        metadata_file=score,
        metadata_key="BrainExtraction",
    )
    outputs = sink.run(cwd=tmp_path).outputs
    path = tmp_path / "out/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    assert outputs.out_file == str(path)
    assert path.read_text() == "mask"
    assert path.stat().st_nlink == 1
    assert not path.is_symlink()
    assert json.loads((path.parent / "sub-01_desc-brain_mask.json").read_text()) == {
        "Type": "Brain",
        "Sources": ["bids::x"],
        "BrainExtraction": {"confidence": 0.9},
    }


@pytest.mark.parametrize(("verdicts", "written"), [(("good", "look"), 1), (("good", "bad"), 0)])
def test_what_failed_its_check_is_not_written(tmp_path, verdicts, written):
    checks = [
        write(tmp_path / f"check{number}.json", json.dumps({"verdict": verdict}))
        for number, verdict in enumerate(verdicts)
    ]
    source = write(tmp_path / "step.nii.gz", "mask")
    sinks = (
        make_sink(tmp_path, in_file=source, metadata={"Type": "Brain"}, check_files=checks),
        LabelledSink(
            in_file=[source],
            labels=["Arcuate"],
            label_entity="bundle",
            out_dir=str(tmp_path / "out"),
            entities={"subject": "01"},
            suffix="tractogram",
            extension=".trk",
            metadata={"Type": "Brain"},
            check_files=checks,
        ),
    )
    for sink in sinks:
        sink.run(cwd=tmp_path)
        assert len(sink.output_paths()) == len(sink.sidecar_paths()) == written
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 4 * written


def test_several_files_go_to_their_own_names(tmp_path):
    sources = [write(tmp_path / f"{i}.nii.gz", str(i)) for i in range(3)]
    names = [{"subject": "01", "label": label} for label in ("GM", "WM", "CSF")]
    sink = make_sink(tmp_path, in_file=sources, entities=names, suffix="probseg", metadata={})
    outputs = sink.run(cwd=tmp_path).outputs
    assert [path.rpartition("/")[2] for path in outputs.out_file] == [
        f"sub-01_label-{label}_probseg.nii.gz" for label in ("GM", "WM", "CSF")
    ]
    assert [Path(path).read_text() for path in outputs.out_file] == ["0", "1", "2"]
    assert len(outputs.out_meta) == 3


def test_without_metadata_there_is_no_sidecar(tmp_path):
    source = write(tmp_path / "iqms.json", '{"cjv": 0.4}')
    sink = make_sink(tmp_path, in_file=source, suffix="T1w", extension=".json")
    sink.run(cwd=tmp_path)
    (path,) = (tmp_path / "out/sub-01/anat").iterdir()
    assert path.name == "sub-01_desc-brain_T1w.json"
    assert path.read_text() == '{"cjv": 0.4}'


def test_numbers_that_do_not_match_are_refused(tmp_path):
    sources = [write(tmp_path / f"{i}.nii.gz") for i in range(2)]
    with pytest.raises(ValueError, match="2 files and 1 sets of entities"):
        make_sink(tmp_path, in_file=sources).run(cwd=tmp_path)
    assert not (tmp_path / "out").exists()


def make_bundles(tmp_path, *labels, **more):
    files = [write(tmp_path / f"{label}.trk", label) for label in labels]
    return LabelledSink(
        out_dir=str(tmp_path / "out"),
        entities={"subject": "01"},
        label_entity="bundle",
        suffix="tractogram",
        extension=".trk",
        datatype="dwi",
        metadata={"Description": "streamlines"},
        **{"in_file": files, "labels": list(labels), **more},
    )


def test_as_many_files_as_there_are_are_named_after_their_labels(tmp_path, content_hashes):
    sink = make_bundles(tmp_path, "LeftArcuate", "RightILF")
    files = [Path(path) for path in sink.run().outputs.out_file]
    names = [f"sub-01_bundle-{label}_tractogram" for label in ("LeftArcuate", "RightILF")]
    assert [path.name for path in files] == [f"{name}.trk" for name in names]
    assert [path.read_text() for path in files] == ["LeftArcuate", "RightILF"]
    sidecar = files[0].with_suffix(".json")
    assert json.loads(sidecar.read_text()) == {"Description": "streamlines"}


def test_there_may_be_none(tmp_path):
    made = make_bundles(tmp_path).run().outputs.out_file
    assert not isdefined(made) or made == []
    assert not (tmp_path / "out").exists()


def test_labels_and_files_that_do_not_match_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 files and 1 sets"):
        make_bundles(tmp_path, "a", "b", labels=["a"]).run()


def test_a_file_that_was_deleted_comes_back_though_its_name_came_from_a_step(tmp_path):
    workflow = pe.Workflow("wf", base_dir=str(tmp_path / "work"))
    source = pe.Node(niu.IdentityInterface(["files", "labels"]), name="source")
    source.inputs.files = [write(tmp_path / "a.trk", "a")]
    source.inputs.labels = ["a"]
    sink = make_bundles(tmp_path)
    node = DerivativesNode(sink, name="write_bundles")
    workflow.connect([(source, node, [("files", "in_file"), ("labels", "labels")])])
    for _ in range(2):
        workflow.run()
        path = tmp_path / "out" / "sub-01" / "dwi" / "sub-01_bundle-a_tractogram.trk"
        assert path.read_text() == "a"
        path.unlink()


def test_a_broken_metadata_file_is_named(tmp_path):
    score = write(tmp_path / "score.json", "{")
    sink = make_sink(tmp_path, in_file=write(tmp_path / "a.nii.gz"), metadata_file=score)
    with pytest.raises(InputError, match=r"score\.json is not valid JSON"):
        sink.run(cwd=tmp_path)


def test_what_cannot_be_written_is_named(tmp_path):
    write(tmp_path / "out")
    sink = make_sink(tmp_path, in_file=write(tmp_path / "a.nii.gz"))
    with pytest.raises(NeuroferryError, match=r"sub-01_desc-brain_mask\.nii\.gz could not be"):
        sink.run(cwd=tmp_path)


def make_graph(tmp_path):
    workflow = pe.Workflow("wf", base_dir=str(tmp_path / "work"))
    source = pe.Node(niu.IdentityInterface(["file"]), name="inputnode")
    source.inputs.file = str(tmp_path / "step.nii.gz")
    sink = DerivativesNode(make_sink(tmp_path, metadata={"Type": "Brain"}), name="write")
    workflow.connect(source, "file", sink, "in_file")
    return workflow


def times(tmp_path):
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}


@pytest.mark.usefixtures("content_hashes")
def test_a_node_is_done_only_while_its_files_are_there(tmp_path):
    write(tmp_path / "step.nii.gz", "one")
    work = tmp_path / "work/wf/write"
    make_graph(tmp_path).run()
    written, ran = times(tmp_path), (work / "_node.pklz").stat().st_mtime_ns
    assert len(written) == 2

    make_graph(tmp_path).run()
    assert times(tmp_path) == written
    assert (work / "_node.pklz").stat().st_mtime_ns == ran

    path = tmp_path / "out/sub-01/anat/sub-01_desc-brain_mask.nii.gz"
    for lost in (path, path.with_name("sub-01_desc-brain_mask.json")):
        lost.unlink()
        make_graph(tmp_path).run()
        assert lost.exists()

    shutil.rmtree(tmp_path / "out")
    make_graph(tmp_path).run()
    assert path.read_text() == "one"

    write(tmp_path / "step.nii.gz", "two")
    make_graph(tmp_path).run()
    assert path.read_text() == "two"
