"""What keeps vLLM's blocks, side by side on the same machine: plain vLLM, kvtier's two doors, and others.

KVTIER_COMPARE names some of them. KVTIER_LMCACHE names an environment that has vLLM and LMCache; without it that one is
left out."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from doors import wait_for
from engines import PATIENCE, REPOSITORY, SAME, Engine, kvtier_tier, offloading

SYSTEMS = os.environ.get("KVTIER_COMPARE", "connector,tier,fs,example,lmcache").split(",")
REPEATS = int(os.environ.get("KVTIER_COMPARE_REPEATS", "5"))
LMCACHE = os.environ.get("KVTIER_LMCACHE", "")
MODEL = "smollm2-135m"
OPTIONS: dict[str, Any] = {"max_num_batched_tokens": 2048, "block_size": 128, "max_model_len": 4608}
POOL_BYTES = 1 << 30

NAMES = {
    "plain": "plain vLLM",
    "again": "plain vLLM again",
    "connector": "KvtierConnector",
    "tier": "KvtierTier",
    "fs": "vLLM's fs tier",
    "example": "vLLM's ExampleConnector",
    "lmcache": "LMCache 0.5.6, MP server",
}


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@contextmanager
def lmcache_server(folder: Path) -> Iterator[int]:
    """LMCache's server with its blocks in memory, as it is meant for engines on CPUs."""
    port, admin = free_port(), free_port()
    command = [f"{LMCACHE}/bin/lmcache", "server", "--host", "127.0.0.1", "--port", str(port), "--http-port", str(admin)]
    command += ["--l1-size-gb", "2", "--l1-init-size-gb", "2", "--eviction-policy", "LRU"]
    command += ["--supported-transfer-mode", "engine_driven", "--max-workers", "2", "--disable-observability"]
    with (folder / "lmcache.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | SAME, start_new_session=True)
    try:
        wait_for(lambda: answers(admin, server, folder / "lmcache.log"), "LMCache's server")
        yield port
    finally:
        server.kill()
        server.wait(PATIENCE)


def answers(port: int, server: subprocess.Popen[bytes], log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-3000:]
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def begin(system: str, engine: Callable[..., Engine], daemon: Any, folder: Path, lmcache_port: int) -> Engine:
    # On a busy machine a daemon may take long to answer, and a request that is not looked up measures nothing.
    kept = {"data_directory": str(daemon.data), "durability": "durable", "lookup_timeout_ms": 1000}
    match system:
        case "plain" | "again":
            return engine(MODEL, **OPTIONS)
        case "connector":
            return engine(MODEL, kept | {"reserve_wait_ms": 100}, **OPTIONS)
        case "tier":
            tier = kvtier_tier(daemon.data, durability="durable", lookup_timeout_ms=1000)
            return engine(MODEL, transfer=offloading(tier, POOL_BYTES), **OPTIONS)
        case "fs":
            tier = {"type": "fs", "root_dir": str(folder / "fs"), "n_read_threads": 4, "n_write_threads": 4}
            return engine(MODEL, transfer=offloading(tier, POOL_BYTES), **OPTIONS)
        case "example":
            extra = {"shared_storage_path": str(folder / "example")}
            transfer = {"kv_connector": "ExampleConnector", "kv_connector_extra_config": extra}
            return engine(MODEL, transfer=transfer, **OPTIONS)
        case "lmcache":
            extra = {"lmcache.mp.host": "tcp://127.0.0.1", "lmcache.mp.port": lmcache_port}
            transfer = {"kv_connector": "LMCacheMPConnector", "kv_connector_extra_config": extra}
            return engine(MODEL, transfer=transfer, python=f"{LMCACHE}/bin/python", **OPTIONS)
    raise AssertionError(f"KVTIER_COMPARE: {system!r} is unknown")


@contextmanager
def running(
    engine: Callable[..., Engine], daemon: Any, folder: Path, plain: tuple[str, ...] = ("plain",)
) -> Iterator[dict[str, Engine]]:
    """Every system that is to be compared, plain vLLM first."""
    others = [system for system in SYSTEMS if system != "lmcache" or LMCACHE]
    server = lmcache_server(folder) if "lmcache" in others else nullcontext(0)
    with server as port:
        yield {system: begin(system, engine, daemon, folder, port) for system in (*plain, *others)}


def heading() -> list[str]:
    return [
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" {time.strftime('%Y-%m-%d')}; {MODEL}, bf16, blocks of 128 tokens, one thread; medians of {REPEATS}, interleaved.",
        "",
    ]


def write(name: str, report: str) -> None:
    folder = REPOSITORY / ".kvtier" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(report)
