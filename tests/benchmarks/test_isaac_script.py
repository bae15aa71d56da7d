"""launchers/isaac_server.py as a file: a script for Python 3.8 that speaks the protocol of its other side."""

from __future__ import annotations

import ast

from rlscale.benchmarks import isaacgym as suite


def test_the_server_is_a_script_for_python_3_8() -> None:
    """Its syntax, and the few newer things of the library that a script of this kind would reach for."""
    source = suite.SERVER.read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    newer = {"removeprefix", "removesuffix", "pairwise", "batched", "send_fds", "recv_fds", "UTC", "TaskGroup"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Attribute) or node.attr not in newer, ast.unparse(node)
        assert not isinstance(node, ast.keyword) or node.arg not in ("strict", "track", "kw_only", "slots"), node.arg
        # evaluated when the script runs, unlike annotations under `from __future__ import annotations`
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in ("dict", "list", "tuple", "set", "type") or annotates(tree, node), node.lineno
    assert "from __future__ import annotations" in source


def annotates(tree: ast.AST, wanted: ast.AST) -> bool:
    return any(
        wanted in ast.walk(annotation)
        for node in ast.walk(tree)
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if annotation is not None
    )


def test_both_sides_speak_one_protocol() -> None:
    constants = [node for node in ast.parse(suite.SERVER.read_text()).body if isinstance(node, ast.Assign)]
    (protocol,) = [node.value for node in constants if ast.unparse(node.targets[0]) == "PROTOCOL"]
    assert ast.literal_eval(protocol) == suite.PROTOCOL
