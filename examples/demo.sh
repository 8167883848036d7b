#!/usr/bin/env bash
# The embedded model without and with smoothed energy guidance, at the same seeds: once without a
# prompt and twice with one. Takes a folder for the pictures; needs `smoothed-energy` on the path.
set -euo pipefail

out="${1:-out/demo}"

draw() {
    smoothed-energy generate "$@" --count 8 --compare --overwrite --out "$out"
}

echo "Sheets of unguided against guided pictures:"
draw
draw "a personas portrait of someone with big curly red hair and glasses, on a teal background"
draw "a toon portrait of someone with spiky blond hair and a laughing mouth, on a purple background"
