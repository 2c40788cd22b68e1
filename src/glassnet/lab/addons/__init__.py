"""What a lab brings beside its network: manifests of Deployments whose pods run parts of glassnet, and those parts in a lab's own process."""

from __future__ import annotations

from pathlib import Path
from string import Template

from glassnet.kube.manifest import Manifest, parse


def manifests(name: str, **words: str) -> list[Manifest]:
    """The objects of `name`.yaml here, with `words` in place of ${…}."""
    file = Path(__file__).with_name(f"{name}.yaml")
    return parse(Template(file.read_text()).substitute(words), str(file))
