"""What must be known of vLLM's own offloading (TieringOffloadingSpec): read in one place, as engine.py does for the rest.

A *row* is one chunk of vLLM's CPU pool: what all workers hold of one KV-cache group for `blocks_per_chunk` blocks,
worker after worker, and in each the pages tensor after tensor. A row is one kvtier block, under vLLM's own key for it:
the hash of the chunk's last block, and the number of the group.
"""

# mypy: disable-error-code="import-not-found,no-any-return"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvtier.vllm import engine
from kvtier.vllm.geometry import Unsupported
from kvtier.vllm.settings import Settings
from kvtier.vllm.space import EngineIdentity, RowShape

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheGroupSpec, KVCacheSpec
    from vllm.v1.kv_offload.base import OffloadingSpec

#: Frames between a tier's constructor and the connector's.
FRAMES_MAX = 32


@dataclass(frozen=True)
class Groups:
    """KV-cache groups by their number in keys."""

    #: Tokens of a chunk.
    chunk_tokens: dict[int, int]
    #: Groups of which only the end of a prompt is stored: what is resident has gaps.
    sparse: frozenset[int]


def find_configuration() -> tuple[VllmConfig, KVCacheConfig]:
    """The engine's configuration, from the constructor of vLLM's connector that is being carried out by this thread:
    vLLM gives a tier a summary that does not say which model it serves. Raises Unsupported."""
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

    frame = sys._getframe(1)
    for _ in range(FRAMES_MAX):
        config, cache = frame.f_locals.get("vllm_config"), frame.f_locals.get("kv_cache_config")
        if isinstance(config, VllmConfig) and isinstance(cache, KVCacheConfig):
            return config, cache
        if frame.f_back is None:
            break
        frame = frame.f_back
    raise Unsupported("vLLM's configuration is out of reach; this release of vLLM builds its tiers in another way")


def find_groups(spec: OffloadingSpec, cache: KVCacheConfig) -> Groups:
    chunk_tokens = {group.group_id: group.tokens_per_block * spec.blocks_per_chunk for group in spec.config.groups}
    sparse = {group for group in chunk_tokens if not _is_full(cache.kv_cache_groups[group].kv_cache_spec)}
    return Groups(chunk_tokens, frozenset(sparse))


def _is_full(spec: KVCacheSpec) -> bool:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    return isinstance(spec, FullAttentionSpec)


def measure_rows(spec: OffloadingSpec, config: VllmConfig, cache: KVCacheConfig) -> RowShape:
    """What a row is made of. Raises Unsupported."""
    if config.lora_config is not None:
        raise Unsupported("vLLM does not tell tiers which adapter a block belongs to; use KvtierConnector with LoRA")
    if config.speculative_config is not None:
        raise Unsupported("blocks of a drafting model depend on its weights too; it is not supported yet")
    parallel = spec.config.parallel
    copies = 1 if spec.replicated_layout else parallel.world_size
    row_bytes = spec.cpu_page_size_per_worker * copies
    if row_bytes == 0:
        raise Unsupported("vLLM's CPU pool has no rows")
    groups = [(group.group_id, cache.kv_cache_groups[group.group_id]) for group in spec.config.groups]
    layers = [layer for _, group in groups for layer in group.layer_names]
    return RowShape(
        row_bytes=row_bytes,
        layout=str(spec.config.kv_cache_layout or engine.layout_name(cache)),
        shape={
            "row_bytes": row_bytes,
            "worker_bytes": spec.cpu_page_size_per_worker,
            "blocks_per_chunk": spec.blocks_per_chunk,
            "replicated": spec.replicated_layout,
            "canonical": spec.config.canonical_layout,
            "context_ranks": [parallel.pcp_size, parallel.dcp_size],
            "groups": [_describe_group(number, group) for number, group in groups],
            "places": _places(cache, layers),
        },
        packings=tuple(sorted({_packing(config, group) for _, group in groups})),
    )


def _describe_group(number: int, group: KVCacheGroupSpec) -> dict[str, Any]:
    return {"group": number, "layers": list(group.layer_names), "spec": _describe(group.kv_cache_spec)}


def _describe(value: Any) -> Any:
    """Plain values of vLLM's own description of a group, all fields of it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__} | fields
    if isinstance(value, dict):
        return {str(name): _describe(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(held) for held in value]
    return str(value)


def _places(cache: KVCacheConfig, layers: list[str]) -> list[list[Any]]:
    """Which tensor of a row each layer is in: layers that share their memory share one. How many blocks the engine has
    does not matter."""
    at: dict[str, int] = {}
    strides: dict[str, int] = {}
    for tensor in cache.kv_cache_tensors:
        for index, layer in enumerate(tensor.layers):
            at[layer] = tensor.offset + index * tensor.layer_stride
            # Of a layout that has all layers in a block, a block is one piece, and places in it count.
            strides[layer] = at[layer] if tensor.block_stride != tensor.layer_stride // cache.num_blocks else -1
    order: dict[int, int] = {}
    return [[layer, order.setdefault(at.get(layer, -1), len(order)), strides.get(layer, -1)] for layer in layers]


def _packing(config: VllmConfig, group: KVCacheGroupSpec) -> str:
    """What a group's pages are packed for. Workers choose the kernels, by the configuration and the device: both are
    named here, so equal packings mean equal kernels."""
    from vllm.platforms import current_platform

    attention = config.attention_config
    chosen = f"{getattr(attention.backend, 'name', attention.backend)}{sorted(map(str, attention.backend_per_kind))}"
    return f"{current_platform.device_name}/{_device(config, group)}/{chosen}"


def _device(config: VllmConfig, group: KVCacheGroupSpec) -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return f"{current_platform.get_device_name()}/{current_platform.get_device_capability()}"
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    spec = group.kv_cache_spec
    head_size = getattr(spec, "head_size", None)
    return _get_attn_isa(config.model_config.dtype, spec.block_size, head_size, config.cache_config.cache_dtype)


def identity_without_weights(
    config: VllmConfig, cache: KVCacheConfig, settings: Settings, spec: OffloadingSpec
) -> EngineIdentity:
    """As engine.identity_without_weights(), with the tokens of a chunk. Raises Unsupported."""
    return _of_chunks(engine.identity_without_weights(config, cache, settings), spec)


def identify(config: VllmConfig, cache: KVCacheConfig, settings: Settings, spec: OffloadingSpec) -> EngineIdentity:
    """The same with the fingerprint of the weights: may take as long as reading them. Raises Unsupported, OSError."""
    return _of_chunks(engine.identify(config, cache, settings), spec)


def _of_chunks(identity: EngineIdentity, spec: OffloadingSpec) -> EngineIdentity:
    tokens = max(group.tokens_per_block for group in spec.config.groups) * spec.blocks_per_chunk
    return replace(identity, unit_tokens=tokens, hash_tokens=spec.config.cache.tokens_per_hash)
