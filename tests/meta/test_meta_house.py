"""The house rules that a machine can guard: sizes, names, files that stand alone, examples that run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "glassnet").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PACKAGES = sorted(path.parent for path in (ROOT / "src" / "glassnet").rglob("__init__.py"))
READMES = sorted((ROOT / "src").rglob("README.md"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def test_files_keep_to_their_ceiling() -> None:
    too_long = {relative(f): n for f in SOURCES if (n := len(f.read_text().splitlines())) > 600}
    too_long |= {relative(f): n for f in TESTS if (n := len(f.read_text().splitlines())) > 800}
    assert not too_long


def test_functions_keep_to_their_ceiling() -> None:
    too_long = {}
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    too_long[f"{relative(file)}:{node.name}"] = lines
    assert not too_long


def test_files_are_named_for_what_they_do() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
    assert not [relative(f) for f in [*SOURCES, *TESTS] if f.stem in vague]


def test_every_package_has_a_readme() -> None:
    without = [
        relative(p)
        for p in PACKAGES
        if not any((q / "README.md").exists() for q in (p, p.parent)) and p.name != "glassnet"
    ]
    assert not without


def test_every_module_says_what_it_is() -> None:
    assert not [relative(f) for f in SOURCES if len(ast.get_docstring(ast.parse(f.read_text())) or "") < 20]


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b|pragma: no cover")
    assert not [relative(f) for f in SOURCES if marks.search(f.read_text())]


def test_the_project_stands_alone() -> None:
    """No file refers to a place outside the checkout, nor to a package registry's host."""
    outside = re.compile(r"(\.\./shared|/work/main|pythonhosted|registry\.npmjs|deb\.debian\.org|://pypi\.org)")
    found = []
    for file in tracked():
        if file == Path(__file__) or file.suffix in {".gz", ".png"}:
            continue
        if outside.search(file.read_text(errors="replace")):
            found.append(relative(file))
    assert not found


@pytest.mark.parametrize("readme", READMES, ids=relative)
def test_examples_of_package_readmes_run(readme: Path) -> None:
    """Every ```python block of a README runs as it stands, each file's blocks in one session."""
    blocks = re.findall(r"^```python\n(.*?)^```", readme.read_text(), re.S | re.M)
    if blocks:
        subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True, cwd=ROOT, timeout=60)


def test_every_command_has_help_with_an_example() -> None:
    from click.testing import CliRunner

    from glassnet.cli.main import COMMANDS, root

    for name in COMMANDS:
        if name == "kubectl":  # its --help is kubectl's own
            continue
        result = CliRunner().invoke(root, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert name == "preflight" or f"glassnet {name}" in result.output, name
