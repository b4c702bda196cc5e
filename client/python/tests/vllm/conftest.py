"""Tests of kvtier.vllm. make/vllm.sh runs them, in an environment that has vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# make/python.sh runs the package's other tests in an environment without vLLM (3 GB).
if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts vLLM in a process of its own: engine("tiny", connector={…}). Kills what a test leaves."""
    from engines import Engine

    engines: list[Engine] = []

    def begin(model: str, connector: dict[str, Any] | None = None, **options: Any) -> Engine:
        engines.append(Engine(model, tmp_path / f"engine{len(engines)}.log", connector, **options))
        return engines[-1]

    yield begin
    for one in engines:
        one.kill()
