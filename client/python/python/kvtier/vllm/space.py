"""When two engines may share blocks: exactly if their bytes are interchangeable.

Everything that changes the bytes of a block, or the key computed for its tokens, is in the description of the space.
Engines that agree on all of it open the same space and find each other's blocks; any difference is another space.

    tenant, weights          whose, and of which model: contents of the weight files, not their names
    model, dtype             its name, and the model's configuration (rope scaling, …) as vLLM resolved it
    layout, packing          layout, shapes and order of the pages; attention backend, instruction set, vLLM release
    ranks                    TP, PP: each rank has its own parts of a block
    lora                     the adapter's contents: vLLM's keys cover its name and path only
    key_recipe, key_seed     how vLLM computes keys. The cache salt and images are in the keys themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvtier import SpaceDescription
from kvtier.vllm.geometry import Unsupported, WorkerShape

#: Parts of one block, and bytes of one block, at most: the daemon's limits.
PARTS_MAX = 64
BLOCK_BYTES_MAX = 64 << 20

#: Fields of a model's configuration that say where it came from, not what it computes.
COSMETIC = frozenset({"_name_or_path", "transformers_version", "architectures_source", "use_cache", "torchscript"})

#: Recipes whose keys depend on Python's pickle, and so on its version.
PICKLED = ("sha256", "xxhash")


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine is, apart from its tensors. Texts as vLLM has them."""

    tenant: str
    model: str
    weights: str
    #: Digest of the model's configuration, see configuration_digest().
    configuration: str
    dtype: str
    cache_dtype: str
    unit_tokens: int
    hash_tokens: int
    tensor_ranks: int
    pipeline_ranks: int
    engine_release: str
    hash_algorithm: str
    hash_seed: str
    python: str
    lora: str | None = None

    def with_lora(self, lora: str | None) -> EngineIdentity:
        return replace(self, lora=lora)


def configuration_digest(configuration: Mapping[str, Any]) -> str:
    """Of everything in a model's configuration that may change what it computes."""
    kept = {name: value for name, value in configuration.items() if name not in COSMETIC}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def describe_space(identity: EngineIdentity, workers: Mapping[tuple[int, int], WorkerShape]) -> SpaceDescription:
    """The space of an engine whose workers have these shapes, by (pipeline rank, tensor rank). Raises Unsupported."""
    ranks = sorted(workers)
    expected = [(p, t) for p in range(identity.pipeline_ranks) for t in range(identity.tensor_ranks)]
    if ranks != expected:
        raise Unsupported(f"workers {ranks} instead of {expected}")
    part_bytes = tuple(size for rank in ranks for size in workers[rank].part_bytes)
    if len(part_bytes) > PARTS_MAX or sum(part_bytes) > BLOCK_BYTES_MAX:
        raise Unsupported(
            f"a block of {identity.unit_tokens} tokens has {len(part_bytes)} parts and {sum(part_bytes)} bytes; at most"
            f" {PARTS_MAX} and {BLOCK_BYTES_MAX} are possible: use a smaller --block-size"
        )
    shapes = [workers[rank].describe() for rank in ranks]
    packings = sorted({group.packing for rank in ranks for group in workers[rank].groups})
    layouts = sorted({workers[rank].layout for rank in ranks})
    return _describe(identity, part_bytes, layouts, shapes, packings)


@dataclass(frozen=True)
class RowShape:
    """What a row of vLLM's CPU pool is, as far as it decides the bytes of a block."""

    row_bytes: int
    layout: str
    #: Everything else that decides them, as plain values.
    shape: Mapping[str, Any]
    packings: tuple[str, ...]


def describe_rows(identity: EngineIdentity, rows: RowShape) -> SpaceDescription:
    """The space of an engine that offloads such rows; never one of describe_space(). Raises Unsupported."""
    if rows.row_bytes > BLOCK_BYTES_MAX:
        raise Unsupported(
            f"a chunk of {identity.unit_tokens} tokens has {rows.row_bytes} bytes; at most {BLOCK_BYTES_MAX} are"
            ' possible: use a smaller "block_size" in kv_connector_extra_config'
        )
    layout = f"offload-rows {rows.layout}"
    described = _describe(identity, (rows.row_bytes,), [layout], [dict(rows.shape)], list(rows.packings))
    return replace(described, key_recipe=f"{described.key_recipe}+group")


def _describe(
    identity: EngineIdentity,
    part_bytes: tuple[int, ...],
    layouts: list[str],
    shapes: list[dict[str, Any]],
    packings: list[str],
) -> SpaceDescription:
    geometry = hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
    backends = sorted({packing.partition("/")[0] for packing in packings})
    recipe = f"vllm-{identity.hash_algorithm}-{identity.hash_tokens}"
    if identity.hash_algorithm in PICKLED:
        recipe += f"-python{identity.python}"
    return SpaceDescription(
        tenant=identity.tenant,
        model=f"{identity.model} config:{identity.configuration}",
        tokens_per_block=identity.unit_tokens,
        part_bytes=part_bytes,
        weights=identity.weights,
        dtype=identity.dtype,
        kv_quantisation="" if identity.cache_dtype == "auto" else identity.cache_dtype,
        layout=f"{'+'.join(layouts)} geometry:{geometry}",
        tensor_ranks=identity.tensor_ranks,
        pipeline_ranks=identity.pipeline_ranks,
        attention_backend="+".join(backends),
        packing=f"{'+'.join(packings)} vllm-{identity.engine_release}",
        lora=identity.lora,
        key_recipe=recipe,
        key_seed=identity.hash_seed,
    )


def part_places(workers: Mapping[tuple[int, int], WorkerShape]) -> dict[tuple[int, int], tuple[int, int]]:
    """Where each rank's parts are in a block: its first part, and the offset of it in bytes."""
    places: dict[tuple[int, int], tuple[int, int]] = {}
    part, offset = 0, 0
    for rank in sorted(workers):
        places[rank] = (part, offset)
        part += len(workers[rank].part_bytes)
        offset += sum(workers[rank].part_bytes)
    return places
