# mypy: disable-error-code="import-not-found,misc"
"""Counters of the connector in vLLM's own log line ("KV Transfer metrics") and statistics."""

from __future__ import annotations

from collections import Counter

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats


class KvtierStats(KVConnectorStats):
    """What happened since the last report, by name. docs/integrations/vllm.md says what the names mean."""

    data: dict[str, int]

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        return KvtierStats(dict(Counter(self.data) + Counter(other.data)))

    def reduce(self) -> dict[str, int | float]:
        return dict(sorted(self.data.items()))

    def is_empty(self) -> bool:
        return not self.data
