"""`docs/architecture.md` names every module, and only what there is.

python tests/test_architecture.py --write    # brings its table of modules up to date
"""

import ast
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "smoothed_energy"
PAGE = ROOT / "docs" / "architecture.md"
PAGES = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
HEAD = "| module | what it is |\n|---|---|\n"
LINES = 400


def modules():
    return sorted(SOURCE.rglob("*.py"))


def first_line(path):
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def table():
    rows = [f"| `{path.relative_to(SOURCE)}` | {first_line(path)} |\n" for path in modules()]
    return HEAD + "".join(rows)


def test_every_module_has_a_row_that_is_its_docstring_s_first_line():
    page = PAGE.read_text()
    assert page.count(HEAD) == 1
    found = page[page.index(HEAD) :].splitlines()
    wrong = sorted({*found} ^ {*table().splitlines()})
    assert not wrong, "run `python tests/test_architecture.py --write`"
    assert len(found) == len(modules()) + 2


def test_every_first_line_is_one_sentence():
    for path in modules():
        line = first_line(path)
        assert re.fullmatch(r"[A-Z`].{14,}\.", line), f"{path}: {line!r}"
        assert "|" not in line, path
    lines = [first_line(path) for path in modules()]
    assert len(set(lines)) == len(lines)


def test_no_module_is_long():
    lengths = {path: len(path.read_text().splitlines()) for path in modules()}
    assert not {path: length for path, length in lengths.items() if length > LINES}


def test_the_contract_of_methods_has_all_of_them():
    contract = (ROOT / "pyproject.toml").read_text().partition("Methods know nothing")[2]
    listed = re.findall(r"smoothed_energy\.methods\.(\w+)", contract)
    assert sorted(listed) == sorted(
        {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "registry"}
    )


def names_of(tree):
    """What a module defines: classes and functions by `name`, methods by `Class.name`."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        if isinstance(node, ast.ClassDef):
            for item in ast.walk(node):
                if isinstance(item, ast.FunctionDef):
                    yield f"{node.name}.{item.name}"


def test_the_page_names_only_what_is_there():
    names = {name for path in modules() for name in names_of(ast.parse(path.read_text()))}
    words = re.findall(r"`@?([^`\n]+)`", PAGE.read_text().split("## Every module")[0])
    paths = [word for word in words if "/" in word or Path(word).suffix in (".py", ".md")]
    for word in {*words} - {*paths}:
        if re.fullmatch(r"[A-Z]\w+(\.\w+)?", word):
            assert word in names, word
    for word in paths:
        if "NAME" not in word and " " not in word:
            assert (SOURCE / word).exists() or (ROOT / word).exists(), word


def test_pages_and_docstrings_name_only_modules_that_are_there():
    for path in [*PAGES, *modules()]:
        for name in re.findall(r"`(smoothed_energy(?:\.\w+)+)`", path.read_text()):
            module, _, last = name.rpartition(".")
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                assert hasattr(importlib.import_module(module), last), f"{path}: {name}"


def write():
    page = PAGE.read_text()
    PAGE.write_text(page[: page.find(HEAD) if HEAD in page else len(page)] + table())


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    write()
