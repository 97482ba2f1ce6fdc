#!/usr/bin/env bash
# Nipype 1.11.0: a node whose input is another long array is taken for unchanged.
#
# Nipype hashes inputs by their printed form. NumPy prints arrays of more than 1,000 numbers with the
# middle left out, so two arrays that differ there have one hash: the node is not run again, and its
# earlier result is returned for the new array.
#
# Seen with nipype 1.11.0 and numpy 2.3.5: the second run gives the sum of the first array (0.0), where
# 1.0 is right. This script installs them into a temporary folder, runs them, and fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nipype==1.11.0 numpy==2.3.5

cd "$folder"
cat >run.py <<'PYTHON'
import numpy as np
from nipype import Function, Node


def total(values):
    return float(values.sum())


def run(values):
    node = Node(Function(["values"], ["out"], total), name="total", base_dir=".")
    node.inputs.values = values
    return node.run().outputs.out


first = np.zeros(2000)
second = first.copy()
second[1000] = 1.0
results = run(first), run(second)
print(f"first array: {results[0]}, second array: {results[1]} (its sum is {second.sum()})")
short = run(first[:900]), run(second[1000:1900])
print(f"arrays of 900 numbers: {short[0]} and {short[1]}")
if results != (0.0, 0.0) or short != (0.0, 1.0):
    raise SystemExit("This is no longer so.")
PYTHON
NO_ET=1 "$folder/venv/bin/python" run.py
