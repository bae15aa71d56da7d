"""Critical batch size and overfitting, against gradients whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.logged import critical_batch_size, overfitting, rolling_mean


def test_the_critical_batch_size_of_known_noise() -> None:
    """Gradients of mean g with per-sample covariance s²·I: S/|G|² = d·s²/|g|²."""
    rng = np.random.default_rng(0)
    size, scale, mean = 50, 2.0, rng.standard_normal(50)
    norms = {
        b: np.linalg.norm(mean + scale / np.sqrt(b) * rng.standard_normal((20000, size)), axis=1) for b in (64, 1024)
    }
    found = critical_batch_size(norms[64], norms[1024], 64, 1024, 20000)[-1]
    assert found == pytest.approx(size * scale**2 / (mean @ mean), rel=0.05)
    with pytest.raises(ValueError, match="the smaller first"):
        critical_batch_size(norms[64], norms[1024], 1024, 64, 10)


def test_no_signal_has_no_critical_batch_size() -> None:
    assert np.isnan(critical_batch_size(np.ones(3), np.full(3, 0.1), 64, 1024, 1)).all()


def test_rolling_means_skip_what_was_not_logged() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0, 7.0])
    np.testing.assert_allclose(rolling_mean(values, 3), [1, 1, 2, 4, 5])
    np.testing.assert_allclose(overfitting(values, 2 * values, 2), 2.0)
