"""The command for KvtierTier in docs/integrations/vllm.md, carried out: vLLM's server, in processes of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from engines import MODELS, PATIENCE, REPOSITORY, SAME, Words
from test_broken_daemon import start_roomy, wait_for
from test_comparisons import free_port

TOKENS = 600


def documented() -> dict[str, Any]:
    text = (REPOSITORY / "docs" / "integrations" / "vllm.md").read_text()
    found = [match for match in re.findall(r"--kv-transfer-config '(\{.*?\})'", text, re.DOTALL) if "KvtierTier" in match]
    assert len(found) == 1
    configuration: dict[str, Any] = json.loads(found[0])
    return configuration


@contextmanager
def serving(folder: Path, transfer: dict[str, Any]) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODELS / "tiny")]
    command += ["--served-model-name", "m", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--max-model-len", "2048", "--block-size", "32", "--dtype", "bfloat16", "--enable-prompt-tokens-details"]
    command += ["--prefix-caching-hash-algo", "sha256_cbor", "--kv-transfer-config", json.dumps(transfer)]
    environment = os.environ | SAME | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "0"}
    with (folder / f"server{port}.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        wait_for(lambda: healthy(port, server, folder / f"server{port}.log"), "vLLM's server", PATIENCE)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(PATIENCE)


def healthy(port: int, server: subprocess.Popen[bytes], log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-4000:]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def ask(port: int, prompt: list[int]) -> tuple[str, int]:
    """The answer, and how many tokens of the prompt were cached."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    address = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        answer = json.load(response)
    details = answer["usage"].get("prompt_tokens_details") or {}
    return answer["choices"][0]["text"], details.get("cached_tokens") or 0


@pytest.mark.full
def test_a_prompt_survives_kill_9_of_the_server(start: Callable[..., Any], tmp_path: Path) -> None:
    daemon = start_roomy(start)
    transfer = documented()
    extra = transfer["kv_connector_extra_config"]
    # What the document says for CPUs, and what this machine has.
    extra |= {"spec_name": "CpuTieringSpec", "spec_module_path": "kvtier.vllm", "cpu_bytes_to_use": 64 << 20}
    extra["secondary_tiers"][0] |= {"data_directory": str(daemon.data), "durability": "durable"}
    prompt = Words("tiny").take(TOKENS)
    with serving(tmp_path, transfer) as port:
        text, cached = ask(port, prompt)
        assert cached == 0
        # A second request: the first one's blocks are stored when its answer is there.
        ask(port, prompt[:40])
        wait_for(lambda: daemon_blocks(daemon) >= TOKENS // 32, "the blocks to be stored")
    with serving(tmp_path, transfer) as port:
        again, cached = ask(port, prompt)
    assert again == text
    assert cached == TOKENS // 32 * 32


def daemon_blocks(daemon: Any) -> int:
    import kvtier

    with kvtier.Client(daemon.unix) as client:
        return sum(space.blocks for space in client.spaces())
