#!/usr/bin/env bash
# Nipype 1.11.0: a changed file is not noticed where its path is a pathlib.Path, not a string.
#
# With hash_method = content, Nipype hashes the content of files that inputs name. It looks for strings
# only. Traits of type File turn a Path into a string, but the inputs of a Function node are of any type:
# there the Path itself is hashed, that is, its name. When the file's content changes, the node is not run
# again, and the result of the old content is returned. The same path as a string does run again.
#
# Seen with nipype 1.11.0: the second run returns the old sum for the Path (3), the new one for the string
# (30). This script installs nipype into a temporary folder, runs it, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nipype==1.11.0

cd "$folder"
cat >run.py <<'PYTHON'
from pathlib import Path

from nipype import Function, Node, config

config.update_config({"execution": {"hash_method": "content"}})


def total(file):
    from pathlib import Path

    return sum(map(int, Path(file).read_text().split()))


def run(name, file):
    node = Node(Function(["file"], ["out"], total), name=name, base_dir="work")
    node.inputs.file = file
    return node.run().outputs.out


bvals = Path("bvals").absolute()
bvals.write_text("1 2")
before = run("as_path", bvals), run("as_string", str(bvals))
bvals.write_text("10 20")
after = run("as_path", bvals), run("as_string", str(bvals))
print(f"before: {before}, after the file changed: {after}")
if (before, after) != ((3, 3), (3, 30)):
    raise SystemExit("This is no longer so.")
PYTHON
NO_ET=1 "$folder/venv/bin/python" run.py
