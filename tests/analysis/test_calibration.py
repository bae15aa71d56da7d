"""The intervals' coverage on simulated studies; `python -m tests.calibration` prints the table."""

from __future__ import annotations

import pytest

from tests import calibration


@pytest.mark.slow
def test_ninety_five_per_cent_means_ninety_to_ninety_eight() -> None:
    told = calibration.summary(calibration.table(200))
    print("\n" + told.to_string(float_format="{:.3f}".format))
    assert (told["studies"] >= 190).all()
    assert told["coverage"].between(0.9, 0.98).all(), "\n" + told.to_string()
