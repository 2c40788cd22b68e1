"""Every command of the README and the walkthroughs, run on a lab; what it prints must be what the document says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console import check

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.lab
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs" / "walkthroughs").glob("*.md"))], ids=lambda path: path.stem
)
def test_walkthrough(document: Path, make_lab: Callable[..., Any]) -> None:
    lab = make_lab("--dns", "knot")
    faults = check(document, lab.env, document.parent)
    assert not faults, "\n\n".join(faults)
