#!/usr/bin/env bash
# The embedded model without and with smoothed energy guidance, at the same seeds: once without a
# prompt and twice with one. Takes a folder for the pictures; needs `smoothed-energy` on the path.
# Eight steps are few: that is where guidance has something to mend in so well trained a model.
set -euo pipefail

out="${1:-out/demo}"

draw() {
    smoothed-energy generate "$@" --count 8 --num-inference-steps 8 --compare --overwrite --out "$out"
}

echo "Sheets of unguided against guided pictures:"
draw
draw "a personas portrait of someone with big curly red hair and glasses, on a teal background"
draw "a toon portrait of someone with spiky blond hair and a laughing mouth, on a purple background"

cat <<'TEXT'
Measured without a prompt, 500 seeds: at eight steps the kernel distance to drawings that the model never
saw is 17.2 without guidance and 14.5 with it (times 1000; the difference is -2.7, with a 95 % interval from
-4.1 to -0.8). It costs nearly two unguided runs; fifteen unguided steps cost as much and give 11.8.
With a prompt there is little to mend, and both rows are alike.
TEXT
