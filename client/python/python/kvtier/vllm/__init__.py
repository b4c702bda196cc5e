"""kvtier.vllm: vLLM keeps its KV cache in kvtier.

vLLM loads the connector by name; nothing here needs vLLM until it does:

    --kv-transfer-config '{"kv_connector": "KvtierConnector", "kv_connector_module_path": "kvtier.vllm",
        "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {"data_directory": "/var/lib/kvtier"}}'

Reading order: connector (vLLM's hooks), scheduler_half (which tokens are hits, what is stored), cost (which hits are
worth loading), worker_half (bytes), space (when two engines may share blocks), link (what happens when the daemon is
away), settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvtier.vllm.connector import KvtierConnector as KvtierConnector

__all__ = ["KvtierConnector"]


def __getattr__(name: str) -> Any:
    if name == "KvtierConnector":
        from kvtier.vllm.connector import KvtierConnector

        return KvtierConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
