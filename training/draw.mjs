// Draws portraits as SVG. Reads one JSON request from standard input:
//   {"jobs": [{"style": "personas", "options": {...}, "seed": "train-0"}, ...]}
// and writes one JSON line for each job: {"style", "seed", "attributes", "svg"}.
// {"describe": true} instead prints the licence and the creator of every named style.
import { createAvatar } from "@dicebear/core";
import * as collection from "@dicebear/collection";
import fs from "node:fs";

const request = JSON.parse(fs.readFileSync(0, "utf8"));
if (request.describe) {
  const described = request.styles.map((style) => [style, collection[style].meta]);
  fs.writeSync(1, JSON.stringify(Object.fromEntries(described)) + "\n");
} else {
  const lines = [];
  for (const { style, options, seed } of request.jobs) {
    const avatar = createAvatar(collection[style], { ...options, seed });
    const attributes = avatar.toJson().extra;
    lines.push(JSON.stringify({ style, seed, attributes, svg: avatar.toString() }));
  }
  process.stdout.write(lines.join("\n") + "\n");
}
