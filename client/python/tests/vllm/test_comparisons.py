"""kvtier's two doors beside what else keeps vLLM's blocks, on the same prompts. Figures, not pass marks for speed:
machines differ. Writes .kvtier/bench/vllm_comparisons.md and vllm_throughput.md; -m full.

KVTIER_LMCACHE names an environment that has vLLM and LMCache; without it that row is left out."""

from __future__ import annotations

import os
import platform
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from doors import wait_for
from engines import PATIENCE, REPOSITORY, SAME, Engine, Words, in_turn, kvtier_tier, offloading

LENGTHS = tuple(int(length) for length in os.environ.get("KVTIER_COMPARE_TOKENS", "512,2048").split(","))
SYSTEMS = os.environ.get("KVTIER_COMPARE", "connector,tier,fs,example,lmcache").split(",")
REPEATS = int(os.environ.get("KVTIER_COMPARE_REPEATS", "5"))
LMCACHE = os.environ.get("KVTIER_LMCACHE", "")
MODEL = "smollm2-135m"
OPTIONS: dict[str, Any] = {"max_num_batched_tokens": 2048, "block_size": 128, "max_model_len": 4608}
POOL_BYTES = 1 << 30

NAMES = {
    "plain": "plain vLLM",
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
        case "plain":
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
def running(engine: Callable[..., Engine], daemon: Any, folder: Path) -> Iterator[dict[str, Engine]]:
    """Every system that is to be compared, plain vLLM first."""
    others = [system for system in SYSTEMS if system != "lmcache" or LMCACHE]
    server = lmcache_server(folder) if "lmcache" in others else nullcontext(0)
    with server as port:
        yield {system: begin(system, engine, daemon, folder, port) for system in ("plain", *others)}


@pytest.mark.full
def test_time_to_first_token_beside_others(
    start: Callable[..., Any], engine: Callable[..., Engine], tmp_path: Path
) -> None:
    daemon = start(host__bytes="2GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    with running(engine, daemon, tmp_path) as engines:
        others = [system for system in engines if system != "plain"]
        words = Words(MODEL)
        warm = [words.take(40)]
        for one in engines.values():
            one.generate(warm, 2)
        prompts = {length: [words.take(length) for _ in range(REPEATS)] for length in LENGTHS}
        for system in others:
            for group in prompts.values():
                engines[system].generate(group, 1)
            engines[system].ask("settle")
        # Blocks of kvtier come from NVMe the first time, and from host memory the second.
        daemon.kill()
        daemon.start()
        for system, what in (("connector", "counts"), ("tier", "tier")):
            if system in others:
                # The first request after a restart may find the daemon slow to answer, and is computed then.
                engines[system].generate([words.take(300)], 1)
                wait_for(lambda system=system, what=what: engines[system].ask(what)["connected"], system)
        rows = []
        for length, group in prompts.items():
            rows.append(measure(length, group, engines))
            # A run that is broken off has said something.
            print("\n".join(table(rows)), flush=True)
    report = "\n".join([*heading(), *table(rows), ""])
    print(report)
    write("vllm_comparisons.md", report)


def measure(length: int, group: list[list[int]], engines: dict[str, Engine]) -> tuple[int, dict[str, float]]:
    """Medians in milliseconds. Every prompt goes to every system before the next one. Another first token than plain
    vLLM's is a failure of kvtier; of others it is told."""
    seconds: dict[str, list[float]] = {}
    for number, prompt in enumerate(group):
        expected = engines["plain"].generate([prompt], 1)
        seconds.setdefault("plain", []).append(expected["seconds"][0])
        for system in in_turn([system for system in engines if system != "plain"], number):
            for place in ("NVMe", "host") if system in ("connector", "tier") else ("",):
                engines[system].ask("forget_host")
                answer = engines[system].generate([prompt], 1)
                if answer["tokens"] != expected["tokens"]:
                    assert system not in ("connector", "tier"), (system, place, length)
                    print(f"{NAMES[system]}, {length} tokens: another first token than plain vLLM's", flush=True)
                assert answer["cached"][0] >= length // 2, (system, place, length, answer["cached"])
                seconds.setdefault(f"{system} {place}".strip(), []).append(answer["seconds"][0])
    return length, {system: statistics.median(values) * 1000 for system, values in seconds.items()}


def heading() -> list[str]:
    return [
        f"Machine: {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" {time.strftime('%Y-%m-%d')}; {MODEL}, bf16, blocks of 128 tokens, one thread; medians of {REPEATS}, interleaved.",
        "",
    ]


def table(rows: list[tuple[int, dict[str, float]]]) -> list[str]:
    systems = list(rows[0][1])
    titles = [" ".join([NAMES[system.split()[0]], *system.split()[1:]]) for system in systems]
    lines = [f"| tokens | {', ms | '.join(titles)}, ms |", "|--:|" + "--:|" * len(systems)]
    lines += [f"| {length:,} | {' | '.join(f'{row[system]:,.0f}' for system in systems)} |" for length, row in rows]
    return lines


@pytest.mark.full
def test_throughput_of_storing_everything(
    start: Callable[..., Any], engine: Callable[..., Engine], tmp_path: Path
) -> None:
    daemon = start(host__bytes="2GiB", nvme__bytes="4GiB", local__client_bytes_max="512MiB")
    with running(engine, daemon, tmp_path) as engines:
        words = Words(MODEL)
        seconds: dict[str, list[float]] = {system: [] for system in engines}
        for number in range(REPEATS + 1):
            prompts = [words.take(512) for _ in range(4)]
            for system in in_turn(list(engines), number):
                began = time.monotonic()
                answer = engines[system].generate(prompts, 16, together=True)
                engines[system].ask("settle")
                # The first round warms up.
                if number:
                    seconds[system].append(time.monotonic() - began)
                assert answer["cached"] == [0] * 4
        hooks = engines["tier"].ask("tier") if "tier" in engines else {}
        stored = {system: engines[system].ask(what) for system, what in (("tier", "tier"), ("connector", "counts")) if system in engines}
    for system, counts in stored.items():
        assert counts["stored_bytes"] >= (REPEATS + 1) * 4 * 512 * 23_040, (system, counts)
    plain = statistics.median(seconds["plain"])
    lines = ["| | seconds a round | least to most | of plain vLLM's throughput |", "|--|--:|--:|--:|"]
    for system, values in seconds.items():
        middle = statistics.median(values)
        span = f"{min(values):.2f} to {max(values):.2f}"
        lines.append(f"| {NAMES[system]} | {middle:.2f} | {span} | {plain / middle:.3f} |")
    figures = ", ".join(f"{name} {hooks[name]:.0f} µs" for name in ("median", "p99", "longest") if name in hooks)
    report = "\n".join([*heading(), *lines, "", f"A scheduler step in the tier: {figures}, {hooks.get('steps')} steps.", ""])
    print(report)
    write("vllm_throughput.md", report)


def write(name: str, report: str) -> None:
    folder = REPOSITORY / ".kvtier" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(report)
