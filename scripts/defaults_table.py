"""The table of layers, scales and steps that are published for models, and by whom.

python scripts/defaults_table.py > docs/defaults.md
"""

from __future__ import annotations

from smoothed_energy.families import families
from smoothed_energy.methods import METHODS

_HEAD = """# Defaults by model

Layers, scales and steps that sources recommend for a model, made by `scripts/defaults_table.py`.
On the command line they are used where you name none, and an image remembers what was used;
`smoothed-energy methods --model MODEL` prints those of a model, and so does
`smoothed-energy layers MODEL` below its layers. In Python `SkipLayerGuidance.suited_to(pipe)` has
them; what you name counts more: `SkipLayerGuidance.suited_to(pipe, scale=2)`. A guidance that is
made without `suited_to` has its own defaults for every model.

None of these was tried here on the large models: they are as their sources have them.
Spatiotemporal skip guidance (STG) skips whole blocks (`slg`), or lets values through (`pag`, in
LTX-2).

| family | model | method | layers | scale | steps | source |
|---|---|---|---|---|---|---|
"""


def table() -> str:
    """The page, in Markdown."""
    lines, silent = [], []
    for family in families():
        known = vars(type(family)).get("advised", ())
        for found in known:
            own = METHODS[found.method]().to_dict()
            told = [own["scale"] if found.scale is None else found.scale, found.steps or "all"]
            cells = [found.model or "all", f"`{found.method}`", f"`{found.layers}`"]
            cells += [f"{told[0]:g}", f"`{told[1]}`", found.source]
            lines.append(f"| {family.name} | {' | '.join(cells)} |")
        if not known:
            silent.append(family.name)
    rest = (
        "For any other method, model or family nobody published any, and methods have their own "
        "for all models, most of them the middle third of the blocks. Families of which nothing is "
        f"known: {', '.join(silent)}."
    )
    return _HEAD + "\n".join(lines) + f"\n\n{rest}\n"


if __name__ == "__main__":
    print(table(), end="")
