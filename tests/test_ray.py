"""hydra/launcher=ray without a Ray: what cannot be asked for, and what is lacking."""

from __future__ import annotations

import importlib.util
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import launchers
from rlscale.typed import Mistake

launchers.discover()
from hydra_plugins import rlscale_ray  # noqa: E402  found once the folder is on the path


def launcher(root: Path, **options: Any) -> Any:
    """With the shipped options but for these."""
    shipped = OmegaConf.to_container(OmegaConf.load(root / "conf" / "hydra" / "launcher" / "ray.yaml"), resolve=True)
    assert isinstance(shipped, dict)
    del shipped["_target_"]
    return rlscale_ray.Ray(**shipped | options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"address": "ray://head:1"}, "hydra.launcher.address=ray://head:1: give host:port of the cluster's head"),
        ({"cpus": 0}, "hydra.launcher.cpus=0: give a whole number, 1 or more"),
        ({"cpus": 4096}, "hydra.launcher.cpus=4096: this machine has "),
        ({"gpus": "one"}, "hydra.launcher.gpus=one: this is not a number"),
        ({"gpus": -1}, "hydra.launcher.gpus=-1: give 0 or more"),
        ({"resources": 3}, "hydra.launcher.resources=3: give names and amounts"),
        ({"requeue": -1}, "hydra.launcher.requeue=-1: give a whole number, 0 or more"),
    ],
)
def test_mistakes_are_sentences(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    launcher(root)._check()
    with pytest.raises(Mistake, match=re.escape(said)):
        launcher(root, **options)._check()


def test_a_cluster_that_does_not_answer_is_a_sentence(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Mistake, match=rf"hydra\.launcher\.address=127\.0\.0\.1:{port}: no Ray answers there"):
        launcher(root, address=f"127.0.0.1:{port}")._engine([], tmp_path)


def test_without_the_extra_there_is_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "pip install -e '.[ray]'" in launcher(root)._lacks()
