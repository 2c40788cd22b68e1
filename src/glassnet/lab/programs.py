"""Programs of others that the lab's user drives: where the real kubectl is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from glassnet.net.errors import PreflightError


def find_kubectl() -> str:
    """Path of kubectl: $GLASSNET_KUBECTL, the one beside this Python (where `make up` puts it), or the first on the PATH.

    Raises PreflightError when there is none.
    """
    beside = str(Path(sys.executable).with_name("kubectl"))
    for candidate in (os.environ.get("GLASSNET_KUBECTL"), beside, shutil.which("kubectl")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise PreflightError("there is no kubectl on the PATH; `make setup` fetches one, GLASSNET_KUBECTL names one")
