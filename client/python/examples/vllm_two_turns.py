"""A conversation about a long document that goes on after everything was restarted.

    python vllm_two_turns.py --model FOLDER --data-directory FOLDER_OF_THE_DAEMON [--document FILE] [--tokens 4096]

Needs vLLM, kvtier and a running kvtierd (`kvtierd --create --data-directory FOLDER`). Every turn runs in an engine of
its own, so nothing that is reused comes from the engine. Prints the time to the first token of each turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", required=True, help="folder or name of a model")
    arguments.add_argument("--data-directory", required=True, help="data_directory of a running kvtierd")
    arguments.add_argument(
        "--document", type=Path, help="text the conversation is about; default: this machine's Python license"
    )
    arguments.add_argument("--tokens", type=int, default=4096, help="how much of the document, in tokens")
    arguments.add_argument("--turn", choices=["1", "2"], help=argparse.SUPPRESS)
    arguments.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.turn:
        print("RESULT " + json.dumps(run_turn(given)))
        return
    first = start(given, "1")
    print(
        f"first turn, computed and stored:      first token after {first['ttft_ms']:8.0f} ms   {first['tokens']} tokens"
    )
    again = start(given, "2", "--plain", answer=first["answer"])
    print(
        f"second turn, new engine, no kvtier:   first token after {again['ttft_ms']:8.0f} ms   {again['tokens']} tokens"
    )
    second = start(given, "2", answer=first["answer"])
    print(
        f"second turn, new engine, with kvtier: first token after {second['ttft_ms']:8.0f} ms"
        f"   {second['cached']} of {second['tokens']} tokens from kvtier"
    )
    print("the same answer:", second["answer"] == again["answer"])


def start(given: argparse.Namespace, turn: str, *more: str, answer: str = "") -> dict[str, object]:
    """Runs one turn in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--turn", turn, *more]
    # Equal threads in all engines: rounding, and with it the answer, depends on them.
    same = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    # GiB for the engine's own KV cache, on CPUs.
    sizes = {"VLLM_CPU_KVCACHE_SPACE": "2"}
    quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment = quiet | sizes | same | os.environ | {"ANSWER": answer}
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    results = [line for line in ran.stdout.splitlines() if line.startswith("RESULT ")]
    if ran.returncode or not results:
        sys.exit(f"turn {turn} failed:\n{ran.stdout}")
    result: dict[str, object] = json.loads(results[0].removeprefix("RESULT "))
    return result


def run_turn(given: argparse.Namespace) -> dict[str, object]:
    from vllm import LLM, SamplingParams
    from vllm.config import KVTransferConfig
    from vllm.inputs import TokensPrompt

    connector = KVTransferConfig(
        kv_connector="KvtierConnector",
        kv_connector_module_path="kvtier.vllm",
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
        kv_connector_extra_config={"data_directory": given.data_directory, "durability": "durable"},
    )
    llm = LLM(
        model=given.model,
        max_model_len=given.tokens + 512,
        enforce_eager=True,
        prefix_caching_hash_algo="sha256_cbor",
        kv_transfer_config=None if given.plain else connector,
    )
    tokenizer = llm.get_tokenizer()
    document = (given.document or Path(os.__file__).parent / "LICENSE.txt").read_text()
    while len(tokenizer.encode(document)) < given.tokens:
        document += document
    prompt = tokenizer.encode(document)[: given.tokens - 64] + tokenizer.encode(
        "\n\nQuestion: what is this about?\nAnswer:"
    )
    if given.turn == "2":
        prompt += tokenizer.encode(os.environ["ANSWER"] + "\n\nQuestion: who wrote it?\nAnswer:")
    # The engine's first request of any kind pays for more than its own work.
    llm.generate(["Hello"], SamplingParams(max_tokens=1), use_tqdm=False)
    began = time.monotonic()
    (first,) = llm.generate(
        [TokensPrompt(prompt_token_ids=prompt)], SamplingParams(temperature=0, max_tokens=1), use_tqdm=False
    )
    ttft = time.monotonic() - began
    (whole,) = llm.generate(
        [TokensPrompt(prompt_token_ids=prompt)], SamplingParams(temperature=0, max_tokens=24), use_tqdm=False
    )
    return {
        "ttft_ms": ttft * 1000,
        "tokens": len(prompt),
        "cached": first.num_cached_tokens,
        "answer": whole.outputs[0].text,
    }


if __name__ == "__main__":
    main()
