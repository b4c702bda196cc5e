"""The commands in docs/integrations/vllm.md, carried out: vLLM's server, in processes of its own, and `kvtier why`."""

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
from beside import free_port
from doors import CONNECTOR, TIER, UNIT, Door, start_roomy, wait_for
from engines import MODELS, PATIENCE, REPOSITORY, SAME, Words
from sameness import longest_hits

TOKENS = 600


def documented(door: Door) -> dict[str, Any]:
    text = (REPOSITORY / "docs" / "integrations" / "vllm.md").read_text()
    wanted = "KvtierTier" if door is TIER else "KvtierConnector"
    found = [match for match in re.findall(r"--kv-transfer-config '(\{.*?\})'", text, re.DOTALL) if wanted in match]
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


def ask(port: int, prompt: list[int]) -> tuple[str, int, str]:
    """The answer, how many tokens of the prompt were cached, and the id of the answer."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    address = f"http://127.0.0.1:{port}/v1/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        answer = json.load(response)
    details = answer["usage"].get("prompt_tokens_details") or {}
    return answer["choices"][0]["text"], details.get("cached_tokens") or 0, answer["id"]


def why(daemon: Any, request: str) -> list[dict[str, Any]]:
    """What `kvtier why` tells of a request."""
    command = [str(Path(daemon.process.args[0]).with_name("kvtier")), "--endpoint", daemon.unix, "--json", "why", request]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={})
    notes: list[dict[str, Any]] = json.loads(told.stdout)[0]["notes"]
    return notes


@pytest.mark.full
@pytest.mark.parametrize("door", [CONNECTOR, TIER], ids=lambda door: str(door.name))
def test_a_prompt_survives_kill_9_of_the_server(start: Callable[..., Any], tmp_path: Path, door: Door) -> None:
    daemon = start_roomy(start)
    transfer = documented(door)
    extra = transfer["kv_connector_extra_config"]
    ours = {"data_directory": str(daemon.data), "durability": "durable"}
    if door is TIER:
        # What the document says for CPUs, and what this machine has.
        extra |= {"spec_name": "CpuTieringSpec", "spec_module_path": "kvtier.vllm", "cpu_bytes_to_use": 64 << 20}
        extra["secondary_tiers"][0] |= ours
    else:
        # A tiny model computes faster than anything loads.
        extra |= ours | {"gate": False}
    prompt = Words("tiny").take(TOKENS)
    with serving(tmp_path, transfer) as port:
        text, cached, first = ask(port, prompt)
        assert cached == 0
        # A second request: the first one's blocks are stored when its answer is there.
        ask(port, prompt[:40])
        wait_for(lambda: daemon_blocks(daemon) >= TOKENS // 32, "the blocks to be stored")
        (lookup,) = [note for note in why(daemon, first) if "call" in note]
        assert (lookup["answered_blocks"], lookup["miss"]["reason"]) == (0, "never_stored")
    with serving(tmp_path, transfer) as port:
        again, cached, second = ask(port, prompt)
        ask(port, prompt[:40])
        story = why(daemon, second)
    assert again == text
    assert [cached] == longest_hits([prompt], UNIT)
    assert any(note.get("answered_blocks") == TOKENS // 32 for note in story), story
    assert any(note.get("verdict") == "loaded" and note["blocks"] == TOKENS // 32 for note in story), story


def daemon_blocks(daemon: Any) -> int:
    import kvtier

    with kvtier.Client(daemon.unix) as client:
        return sum(space.blocks for space in client.spaces())
