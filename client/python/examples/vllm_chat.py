"""A chat over vLLM's OpenAI server that goes on after the server was killed.

    python vllm_chat.py --model FOLDER --data-directory FOLDER_OF_THE_DAEMON [--port 8199]

Needs vLLM, kvtier and a running kvtierd. Starts the server, asks a question about a long text, kills the server with
-9, starts it again and asks a second one. Prints the time to the first token of each answer, and what came from kvtier.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

#: How long a server may take to start, in seconds.
START_MAX = 600


def serve(given: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Starts vLLM's server and waits until it answers."""
    transfer = {
        "kv_connector": "KvtierConnector",
        "kv_connector_module_path": "kvtier.vllm",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"data_directory": given.data_directory, "durability": "durable"},
    }
    # The same as `vllm serve MODEL --kv-transfer-config …`.
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        given.model,
        "--served-model-name",
        "m",
    ]
    command += [
        "--port",
        str(given.port),
        "--enforce-eager",
        "--max-model-len",
        "4096",
        "--enable-prompt-tokens-details",
    ]
    command += ["--prefix-caching-hash-algo", "sha256_cbor", "--kv-transfer-config", json.dumps(transfer)]
    # GiB for the engine's own KV cache, on CPUs.
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2"} | os.environ
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env=environment)
    for _ in range(START_MAX * 2):
        if server.poll() is not None:
            sys.exit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{given.port}/health", timeout=5)
            return server
        except OSError:
            time.sleep(0.5)
    os.killpg(server.pid, signal.SIGKILL)
    sys.exit(f"the server did not answer within {START_MAX} s")


def ask(given: argparse.Namespace, messages: list[dict[str, str]]) -> tuple[str, float, Any]:
    """The answer, the time to its first token in milliseconds, and vLLM's account of the tokens."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{given.port}/v1", api_key="none")
    began = time.monotonic()
    stream = client.chat.completions.create(
        model="m",
        messages=messages,  # type: ignore[arg-type]
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, first, usage = "", 0.0, None
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or (time.monotonic() - began) * 1000
            text += chunk.choices[0].delta.content
        usage = chunk.usage or usage
    return text, first, usage


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True)
    arguments.add_argument("--data-directory", required=True)
    arguments.add_argument("--port", type=int, default=8199)
    given = arguments.parse_args()
    text = (Path(os.__file__).parent / "LICENSE.txt").read_text()[:9000]
    messages = [{"role": "user", "content": f"{text}\n\nWhat is this text about?"}]
    for turn in ("first turn", "second turn, after kill -9"):
        server = serve(given)
        try:
            # A server's first request of any kind pays for more than its own work.
            ask(given, [{"role": "user", "content": "Hello"}])
            answer, first, usage = ask(given, messages)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        print(f"{turn}: first token after {first:.0f} ms; {cached} of {usage.prompt_tokens} tokens from kvtier")
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Who wrote it?"}]


if __name__ == "__main__":
    main()
