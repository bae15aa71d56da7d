"""What the tests of the suites share."""

from __future__ import annotations

import pytest

from tests.benchmarks import isaac_machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with the stand-ins of Isaac Gym."""
    return isaac_machine.stand_in(monkeypatch)
