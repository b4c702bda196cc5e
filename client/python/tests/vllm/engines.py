"""Engines as the tests see them, and the texts they are given."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[3]
#: Made by make/vllm.sh.
MODELS = Path(os.environ.get("KVTIER_MODELS", REPOSITORY / ".kvtier" / "models"))
#: How long an engine may take to start, or to answer, on a busy machine.
PATIENCE = 300.0

#: Rounding depends on the number of threads and on chunk sizes, so all engines that are compared have the same.
SAME = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Or glibc gives memory back after every chunk in some processes and not in others: 6 % of the time of long prompts.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


class Engine:
    """One vLLM in one process. kill() is kill -9; close() lets it end in order."""

    def __init__(
        self, model: str, log: Path, connector: dict[str, Any] | None = None, python: str = sys.executable, **options: Any
    ) -> None:
        options = {
            "model": str(MODELS / model),
            "dtype": "bfloat16",
            "max_model_len": 4608,
            "enforce_eager": True,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 512,
            "block_size": 32,
            "disable_log_stats": True,
            "prefix_caching_hash_algo": "sha256_cbor",
        } | options
        if connector is not None:
            # A tiny model computes faster than anything loads; tests of loads want them.
            options["connector"] = {"gate": False} | connector
        self.log = log
        ours, theirs = os.pipe()
        with log.open("wb") as printed:
            self.process = subprocess.Popen(
                [python, str(HERE / "engine_main.py")],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                env=os.environ | SAME | {"KVTIER_ANSWERS": str(theirs)},
                start_new_session=True,
            )
        os.close(theirs)
        self._answers = os.fdopen(ours)
        self._order(options)
        self._started = False

    def wait(self) -> Engine:
        """Waits until it serves; engines that were started together load together."""
        if not self._started:
            assert self._answer() == {"ready": True}
            self._started = True
        return self

    def generate(self, prompts: list[list[int]], tokens: int = 16, **how: Any) -> dict[str, Any]:
        self.begin(prompts, tokens, **how)
        return self._answer()

    def begin(self, prompts: list[list[int]], tokens: int = 16, **how: Any) -> None:
        """The same without waiting; finish() has the answer."""
        self.wait()
        self._order({"do": "generate", "prompts": prompts, "tokens": tokens} | how)

    def finish(self) -> dict[str, Any]:
        return self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        self.wait()
        self._order({"do": what})
        return self._answer()

    def kill(self) -> None:
        """kill -9 of everything it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._answers.close()
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def close(self) -> None:
        """An orderly end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self._answer() == {"ended": True}
        self.process.wait(PATIENCE)
        self._answers.close()

    def _order(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        assert line, f"the engine ended with {self.process.wait(PATIENCE)}:\n{self.log.read_text()[-6000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def in_turn(names: list[str], number: int) -> list[str]:
    """The same names, each of them first as often as the others."""
    at = number % len(names)
    return names[at:] + names[:at]


def offloading(tier: dict[str, Any], pool_bytes: int = 256 << 20, **extra: Any) -> dict[str, Any]:
    """vLLM's own offloading with one secondary tier, for an engine on CPUs: Engine(…, transfer=offloading(…))."""
    return {
        "kv_connector": "OffloadingConnector",
        "kv_connector_extra_config": {
            "spec_name": "CpuTieringSpec",
            "spec_module_path": "kvtier.vllm",
            "cpu_bytes_to_use": pool_bytes,
            "secondary_tiers": [tier],
        }
        | extra,
    }


def kvtier_tier(daemon_folder: Path, **settings: Any) -> dict[str, Any]:
    return {"type": "KvtierTier", "module_path": "kvtier.vllm", "data_directory": str(daemon_folder)} | settings


def prose() -> str:
    """Natural text: this repository's own documents, without their tables and drawings."""
    texts: list[str] = []
    for file in sorted((REPOSITORY / "docs").rglob("*.md")):
        fenced = False
        for line in file.read_text().splitlines():
            fenced ^= line.startswith("```")
            if line and not fenced and line[0] not in "|`#-" and len(line) > 40:
                texts.append(line)
    return " ".join(texts)


class Words:
    """Prompts of given lengths out of natural text, for one model's tokenizer."""

    def __init__(self, model: str) -> None:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(MODELS / model / "tokenizer.json"))
        self._tokens: list[int] = tokenizer.encode(prose()).ids
        self._at = 0

    def take(self, count: int) -> list[int]:
        """The next `count` tokens; no two calls give the same ones until the text begins again."""
        if self._at + count > len(self._tokens):
            self._at = (self._at + 7) % 101
        self._at += count
        return self._tokens[self._at - count : self._at]
