"""kvtier.vllm: vLLM keeps its KV cache in kvtier, by one of two doors.

vLLM loads the connector by name; nothing here needs vLLM until it does:

    --kv-transfer-config '{"kv_connector": "KvtierConnector", "kv_connector_module_path": "kvtier.vllm",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"data_directory": "/var/lib/kvtier"}}'

Or, as a secondary tier of vLLM's own offloading:

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": {
        "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 8589934592, "secondary_tiers": [
            {"type": "KvtierTier", "module_path": "kvtier.vllm", "data_directory": "/var/lib/kvtier"}]}}'

Reading order: connector (vLLM's hooks), scheduler_half (which tokens are hits, what is stored), cost (which hits are
worth loading), worker_half (bytes), space (when two engines may share blocks), link (what happens when the daemon is
away), settings; then tier, lookups, transfers, offload (what a row of vLLM's pool is), cpu_spec (vLLM's offloading on CPUs).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvtier.vllm.connector import KvtierConnector as KvtierConnector
    from kvtier.vllm.cpu_spec import CpuTieringSpec as CpuTieringSpec
    from kvtier.vllm.tier import KvtierTier as KvtierTier

#: Where vLLM's names for our classes are.
MODULES = {"KvtierConnector": "connector", "KvtierTier": "tier", "CpuTieringSpec": "cpu_spec"}

__all__ = ["CpuTieringSpec", "KvtierConnector", "KvtierTier"]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module(f"kvtier.vllm.{MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
