#!/usr/bin/env bash
# The tests with the oldest versions that pyproject.toml allows, and with the newest, each in an
# environment of its own outside the checkout:
#
#     scripts/test_bounds.sh oldest [ARGUMENTS OF PYTEST]
#     scripts/test_bounds.sh newest [ARGUMENTS OF PYTEST]
#
# BOUNDS is the folder of the environments, which are used again ($TMPDIR/smoothed-energy-bounds).
# PYTHON_OLDEST and PYTHON_NEWEST are the interpreters. On Linux PyPI's torch of old is a build with
# CUDA, some 5 GB; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives one without.
#
# Left out: tests/training, whose scripts run with the pinned versions only, and reports in a
# browser.
set -euo pipefail

which="${1:-}"
case "$which" in
    oldest) python="${PYTHON_OLDEST:-python3.10}" resolution=lowest-direct ;;
    newest) python="${PYTHON_NEWEST:-python3}" resolution=highest ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift

cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder="${BOUNDS:-${TMPDIR:-/tmp}/smoothed-energy-bounds}/$which"
mkdir -p "$folder"
pins="$folder/pins.txt"
bin="$folder/venv/bin"
pip=("$bin/python" -m pip --quiet --disable-pip-version-check)

test -x "$bin/python" || "$python" -m venv "$folder/venv"
if ! cmp -s pyproject.toml "$folder/pyproject.toml"; then
    # uv finds the oldest versions of what pyproject.toml names; pip has no such option. What these
    # in turn need is the newest that fits, as for anybody who installs an old version today.
    "${pip[@]}" install --upgrade pip uv
    "$bin/uv" pip compile --quiet --no-header --no-annotate --python "$bin/python" \
        --resolution "$resolution" --extra measure --extra control --extra ray --extra test \
        pyproject.toml --output-file "$pins"
    "${pip[@]}" install -r "$pins"
    cp pyproject.toml "$folder/pyproject.toml"
fi

"$bin/python" --version
grep -E '^(torch|diffusers|transformers|numpy|accelerate|peft)==' "$pins"
# Installed, since sweeps start programs in other folders, and pages tell the version.
"${pip[@]}" install --no-deps --editable .
OMP_NUM_THREADS=1 "$bin/python" -m pytest -p no:cacheprovider -n logical \
    --maxprocesses 8 --ignore=tests/training --ignore=tests/report/test_browser.py "$@"
