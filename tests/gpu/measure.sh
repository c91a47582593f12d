#!/usr/bin/env bash
# Everything that only a GPU can show, in four minutes: figures into ${OUT:-out}/gpu.json, one JSON
# line last. Without a GPU the same path at tiny sizes. whylens need not be installed; wheels of what
# the machine lacks may lie in .whl. MEASURE_SECONDS and MEASURE_PARTS change the time and the parts,
# MEASURE_OPTIONS (such as &graphs=off) go with the sampler.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tree/whylens" "$work/site"
# The folders at the top are packages of whylens (pyproject.toml, package-dir).
for part in "$root"/whylens/* "$root"/kernels "$root"/cluster "$root"/jobs; do
  ln -s "$part" "$work/tree/whylens/${part##*/}"
done
if ! "${PYTHON:-python3}" -c 'import diffusers, pydantic' 2>/dev/null; then
  for wheel in "$root"/.whl/*.whl; do "${PYTHON:-python3}" -m zipfile -e "$wheel" "$work/site"; done
fi
export PYTHONPATH="$work/tree:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
cd "$root"
"${PYTHON:-python3}" tests/gpu/measure.py
