"""A vLLM engine in a process of its own, so that a test can kill it. Orders come as JSON lines on standard input,
answers go as JSON lines to the file descriptor named in KVTIER_ANSWERS; what vLLM prints is its own business.

    {"do": "generate", "prompts": [[token, …], …], "tokens": 16, "salt": null}
                            -> {"tokens": [[…], …], "cached": […], "seconds": [by batch], "processor": [by batch]}
    {"do": "blocks"}        -> {"blocks": {key: "sha256 of its bytes", …}}: what is in the engine's own prefix cache
    {"do": "counts"}        -> counters of the connector's two halves
    {"do": "drain"}         -> when everything stored is committed
    {"do": "connect"}       -> when a daemon that was restarted is connected
    {"do": "hooks"}         -> microseconds of a scheduler step that were the connector's since the last time, in all and
                               by hook: median, p99, longest
    {"do": "tier"}          -> counters of a KvtierTier, and the same figures for it alone
    {"do": "settle"}        -> steps until nothing is under way any more, as an engine with a process of its own does
    {"do": "replace_weights"} -> all caches are emptied as if other weights had been loaded
    {"do": "forget_host"}   -> empties the engine's own prefix cache and vLLM's CPU pool if it has one, and nothing else

The engine runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): it starts twice as fast.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from typing import Any


def make_engine(options: dict[str, Any]) -> Any:
    from vllm import LLM

    connector = options.pop("connector", None)
    if connector is not None:
        from vllm.config import KVTransferConfig

        options["kv_transfer_config"] = KVTransferConfig(
            kv_connector="KvtierConnector",
            kv_connector_module_path="kvtier.vllm",
            kv_role="kv_both",
            kv_load_failure_policy="recompute",
            kv_connector_extra_config=connector,
        )
    if (events := options.pop("events", None)) is not None:
        from vllm.config import KVEventsConfig

        options["kv_events_config"] = KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", **events)
    transfer = options.pop("transfer", None)
    if transfer is not None:
        from vllm.config import KVTransferConfig

        options["kv_transfer_config"] = KVTransferConfig(kv_role="kv_both", **transfer)
    return LLM(**options)


def generate(llm: Any, order: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    params = SamplingParams(
        temperature=0.0, max_tokens=order["tokens"], ignore_eos=True, logprobs=order.get("logprobs")
    )
    prompts = [TokensPrompt(prompt_token_ids=tokens) for tokens in order["prompts"]]
    if order.get("salt") is not None:
        for prompt in prompts:
            prompt["cache_salt"] = order["salt"]
    # One after the other unless told otherwise: chunks of prompts, and so their rounding, are the same in every engine.
    batches = [prompts] if order.get("together") else [[prompt] for prompt in prompts]
    answer: dict[str, Any] = {"tokens": [], "cached": [], "seconds": [], "processor": []}
    for batch in batches:
        began, ran = time.monotonic(), time.process_time()
        outputs = llm.generate(batch, params, use_tqdm=False)
        answer["seconds"].append(time.monotonic() - began)
        answer["processor"].append(time.process_time() - ran)
        answer["tokens"] += [list(output.outputs[0].token_ids) for output in outputs]
        answer["cached"] += [output.num_cached_tokens for output in outputs]
        if order.get("logprobs"):
            answer.setdefault("margins", [])
            answer["margins"] += [[_margin(step) for step in output.outputs[0].logprobs] for output in outputs]
    return answer


def _margin(step: dict[int, Any]) -> float:
    best = sorted((one.logprob for one in step.values()), reverse=True)
    return best[0] - best[1]


def core_of(llm: Any) -> Any:
    return llm.llm_engine.engine_core.engine_core


def blocks(llm: Any) -> dict[str, str]:
    """Every block of the engine's prefix cache: its bytes, layer after layer, read straight from the tensors."""
    from vllm.v1.core.kv_cache_utils import get_block_hash

    core = core_of(llm)
    # Of an engine with one worker, which then is in this process.
    runner = core.model_executor.driver_worker.worker.model_runner
    found: dict[str, str] = {}
    for block in core.scheduler.kv_cache_manager.block_pool.blocks:
        if block.block_hash is not None:
            whole = hashlib.sha256()
            for layer in runner.kv_caches:
                whole.update(layer[block.block_id].contiguous().view(dtype=_bytes()).numpy().tobytes())
            found[get_block_hash(block.block_hash).hex()] = whole.hexdigest()
    return found


def _bytes() -> Any:
    import torch

    return torch.uint8


def counts(llm: Any) -> dict[str, Any]:
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    scheduler = core_of(llm).scheduler
    halves = scheduler.connector, get_kv_transfer_group()
    return (
        dict(halves[0]._scheduler.counts)
        | dict(halves[1]._worker.counts)
        | {"connected": all(half._link.client() is not None for half in halves)}
        | {"preemptions": scheduler.preempted_for_the_test}
    )


def drain() -> dict[str, Any]:
    """Waits until all that was stored is committed."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    get_kv_transfer_group()._worker._collect(wait=60.0)
    return {"done": True}


def connect(llm: Any) -> dict[str, Any]:
    """Has both halves notice a daemon that was restarted while nobody asked it anything, and waits for them."""
    from kvtier.vllm.link import ping
    from vllm.distributed.kv_transfer import get_kv_transfer_group

    for half in (core_of(llm).scheduler.connector, get_kv_transfer_group()):
        deadline = time.monotonic() + 60
        while (client := half._link.client()) is None:
            assert time.monotonic() < deadline, "the daemon is not back"
            time.sleep(0.01)
        ping(client)
    return {"done": True}


#: What vLLM's scheduler calls of the connector.
HOOKS = (
    "on_new_request",
    "get_num_new_matched_tokens",
    "update_state_after_alloc",
    "update_connector_output",
    "request_finished_all_groups",
    "get_kv_connector_stats",
    "build_connector_meta",
)


def time_hooks(llm: Any) -> None:
    """Adds up, step by step and hook by hook, the time the scheduler spends in the connector: on the clock, and of this
    thread's processor time, which leaves out what it waited for."""
    scheduler = core_of(llm).scheduler
    scheduler.hook_times = [{}]

    def timed(name: str) -> Any:
        hook = getattr(scheduler.connector, name)

        def called(*given: Any, **named: Any) -> Any:
            ran, began = time.thread_time(), time.perf_counter()
            try:
                return hook(*given, **named)
            finally:
                spent, ran = time.perf_counter() - began, time.thread_time() - ran
                step = scheduler.hook_times[-1]
                before = step.get(name, (0.0, 0.0))
                step[name] = before[0] + spent, before[1] + ran
                if name == "build_connector_meta":
                    scheduler.hook_times.append({})

        return called

    for name in HOOKS:
        if hasattr(scheduler.connector, name):
            setattr(scheduler.connector, name, timed(name))
    time_stores(scheduler)


def time_stores(scheduler: Any) -> None:
    """What steps that store spend in asking for room and in copying: (seconds, bytes)."""
    from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

    scheduler.store_times = []
    # Workers of several ranks are in processes of their own.
    worker = getattr(get_kv_transfer_group(), "_worker", None) if has_kv_transfer_group() else None
    if worker is None:
        return
    reserve, fill = worker.reserve, worker.fill
    spent = [0.0]

    def timed_reserve(step: Any) -> None:
        began = time.perf_counter()
        reserve(step)
        spent[0] = time.perf_counter() - began

    def timed_fill() -> None:
        stores, before = bool(worker._storing), worker.counts["stored_bytes"]
        began = time.perf_counter()
        fill()
        if stores:
            seconds = spent[0] + time.perf_counter() - began
            scheduler.store_times.append((seconds, worker.counts["stored_bytes"] - before))

    worker.reserve, worker.fill = timed_reserve, timed_fill


def hooks(llm: Any) -> dict[str, Any]:
    scheduler = core_of(llm).scheduler
    # Steps in which the scheduler did something for a request, or had it done; requests arrive between steps.
    arrivals = [step.pop("on_new_request") for step in scheduler.hook_times if "on_new_request" in step]
    steps = [step for step in scheduler.hook_times if set(step) - {"build_connector_meta", "get_kv_connector_stats"}]
    answer: dict[str, Any] = {"steps": len(steps), "idle": len(scheduler.hook_times) - len(steps)}
    if steps:
        answer |= shares([sum(wall for wall, _ in step.values()) for step in steps])
        answer["processor"] = shares([sum(ran for _, ran in step.values()) for step in steps])
        for name in HOOKS:
            if own := [step[name][0] for step in steps if name in step]:
                answer[name] = shares(own)
        scheduler.hook_times = [{}]
    if arrivals:
        answer["on_new_request"] = shares([wall for wall, _ in arrivals])
    if scheduler.store_times:
        answer["stores"] = shares([seconds for seconds, _ in scheduler.store_times])
        answer["stored_bytes"] = sum(size for _, size in scheduler.store_times)
        scheduler.store_times.clear()
    return answer


def shares(times: list[float]) -> dict[str, float]:
    """Median, 99th percentile and longest, in microseconds."""
    times = sorted(times)
    at = {"median": 0.5, "p99": 0.99, "longest": 1.0}
    return {name: round(times[int(share * (len(times) - 1))] * 1e6, 1) for name, share in at.items()}


#: What vLLM calls of a tier in a step; the last one ends it.
TIER_HOOKS = (
    "on_new_request",
    "lookup",
    "submit_load",
    "submit_store",
    "get_finished_jobs",
    "on_request_finished",
    "on_schedule_end",
)


def tier_of(llm: Any) -> Any:
    """The KvtierTier of an engine that has one."""
    connector = getattr(core_of(llm).scheduler.connector, "connector_scheduler", None)
    tiers = getattr(getattr(connector, "manager", None), "secondary_tiers", [])
    return next((tier for tier in tiers if type(tier).__name__ == "KvtierTier"), None)


def time_tier(llm: Any) -> None:
    """Adds up, step by step, the time the scheduler spends in the tier, what vLLM does around it apart."""
    tier = tier_of(llm)
    if tier is None:
        return
    tier.times = [0.0]

    def timed(name: str) -> Any:
        hook = getattr(tier, name)

        def called(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return hook(*given, **named)
            finally:
                tier.times[-1] += time.perf_counter() - began
                if name == TIER_HOOKS[-1]:
                    tier.times.append(0.0)

        return called

    for name in TIER_HOOKS:
        setattr(tier, name, timed(name))


def tier(llm: Any) -> dict[str, Any]:
    held = tier_of(llm)
    connected = held._on is not None and held._on.link.client() is not None
    figures = shares(held.times) | {"steps": len(held.times)}
    return dict(held.counts) | {"connected": connected, "on": held._on is not None} | figures


def settle(llm: Any) -> dict[str, Any]:
    core = core_of(llm)
    steps = 0
    while core.scheduler.has_requests():
        core.step()
        steps += 1
    return {"steps": steps}


def forget_host(llm: Any) -> dict[str, Any]:
    settle(llm)
    offloading = getattr(core_of(llm).scheduler.connector, "connector_scheduler", None)
    if hasattr(offloading, "manager"):
        offloading.manager.primary_tier.reset_cache()
    return {"done": llm.reset_prefix_cache()}


def count_preemptions(llm: Any) -> None:
    scheduler = core_of(llm).scheduler
    scheduler.preempted_for_the_test = 0
    preempt = scheduler._preempt_request

    def counted(*given: Any, **named: Any) -> Any:
        scheduler.preempted_for_the_test += 1
        return preempt(*given, **named)

    scheduler._preempt_request = counted


def main() -> None:
    answers = os.fdopen(int(os.environ["KVTIER_ANSWERS"]), "w")

    def say(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    llm = make_engine(json.loads(sys.stdin.readline()))
    count_preemptions(llm)
    time_hooks(llm)
    time_tier(llm)
    say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        match order["do"]:
            case "generate":
                say(generate(llm, order))
            case "blocks":
                say({"blocks": blocks(llm)})
            case "counts":
                say(counts(llm))
            case "hooks":
                say(hooks(llm))
            case "drain":
                say(drain())
            case "connect":
                say(connect(llm))
            case "tier":
                say(tier(llm))
            case "settle":
                say(settle(llm))
            case "replace_weights":
                # What vLLM does after it has loaded other weights into the same engine.
                settle(llm)
                say({"done": core_of(llm).reset_prefix_cache(reset_connector=True)})
            case "forget_host":
                say(forget_host(llm))
            case "forget":
                # Drops the engine's own prefix cache, and nothing else.
                say({"done": llm.reset_prefix_cache()})
    # The end of standard input is an orderly end: the connector is shut down.
    core_of(llm).shutdown()
    say({"ended": True})


if __name__ == "__main__":
    main()
