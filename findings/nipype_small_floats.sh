#!/usr/bin/env bash
# Nipype 1.11.0: numbers that differ after the tenth decimal are one number to a node.
#
# Floats are hashed in the form "%.10f". Regularisations, tolerances and values in SI units (metres, seconds,
# square metres per second) are often smaller than that: the node is not run again for another one, and the
# result of the first is returned. Diffusivities show it well: 7e-10 m2/s (0.7e-3 mm2/s, white matter) and 9e-10
# differ in the tenth decimal, 7.0e-10 and 7.4e-10 do not.
#
# Seen with nipype 1.11.0: after tolerance 1e-12 the node returns 1e-12 for 4e-12, and 7e-10 for 7.4e-10. This
# script installs nipype into a temporary folder, runs it, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nipype==1.11.0

cd "$folder"
cat >run.py <<'PYTHON'
from nipype import Function, Node


def same(value):
    return value


def run(name, value):
    node = Node(Function(["value"], ["out"], same), name=name, base_dir="work")
    node.inputs.value = value
    return node.run().outputs.out


seen = [run(name, value) for name, value in (("a", 1e-12), ("a", 4e-12), ("b", 7e-10), ("b", 7.4e-10))]
print(seen)
if seen != [1e-12, 1e-12, 7e-10, 7e-10]:
    raise SystemExit("This is no longer so.")
PYTHON
NO_ET=1 "$folder/venv/bin/python" run.py
