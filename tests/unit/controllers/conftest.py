"""The world that the controllers' tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from controllers_world import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """Three Ready nodes and a control plane."""
    made = World()
    yield made
    await made.close()
