"""What must be known of vLLM's configuration, read in one place: the only file to check against a new release."""

# mypy: disable-error-code="import-not-found,no-any-return"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from kvtier.vllm.fingerprint import weights_fingerprint
from kvtier.vllm.geometry import GroupPlan, Unsupported
from kvtier.vllm.settings import Settings
from kvtier.vllm.space import EngineIdentity, configuration_digest

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec

#: Releases the tests run with.
TESTED = ("0.32",)

#: Groups whose blocks are a function of the tokens up to their end, block by block.
KEPT = (
    "FullAttentionSpec",
    "MLAAttentionSpec",
    "SlidingWindowSpec",
    "ChunkedLocalAttentionSpec",
    "SinkFullAttentionSpec",
    "UniformTypeKVCacheSpecs",
)


#: Those whose blocks all stay while a prompt's last token is computed again after a hit of everything. A window that is
#: counted from the end of the hit may have left a block behind that this token still looks at.
WHOLE = ("FullAttentionSpec", "MLAAttentionSpec")
#: What vLLM makes of the id it answers with: a number in front for each of several answers, and eight random digits.
INTERNAL_ID = re.compile(r"(?:\d+_)?(.+?)(?:-[0-9a-f]{8})?")
#: Of the prompts of one completion each has its number, too.
PROMPT_ID = re.compile(r"(cmpl-.+)-\d+")


def answered_id(request_id: str) -> str:
    """The id of a request as it stands in vLLM's answer, which is what people know."""
    from vllm import envs

    if not envs.VLLM_DISABLE_REQUEST_ID_RANDOMIZATION and (whole := INTERNAL_ID.fullmatch(request_id)):
        request_id = whole[1]
    prompt = PROMPT_ID.fullmatch(request_id)
    return prompt[1] if prompt else request_id


def plan_groups(config: VllmConfig, cache: KVCacheConfig) -> list[GroupPlan]:
    """The KV-cache groups to keep. Raises Unsupported if the engine's blocks cannot be kept at all."""
    parallel = config.parallel_config
    if parallel.decode_context_parallel_size > 1 or parallel.prefill_context_parallel_size > 1:
        raise Unsupported("context parallelism divides blocks among ranks; it is not supported yet")
    plans: list[GroupPlan] = []
    for index, group in enumerate(cache.kv_cache_groups):
        kind = _kind(group.kv_cache_spec)
        if index not in cache.prefix_cacheable_group_ids or group.is_eagle_group or kind not in KEPT:
            raise Unsupported(
                f"KV-cache group {index} ({kind}) holds more than blocks of tokens; it is not supported yet"
            )
        plans.append(GroupPlan(kind, group.kv_cache_spec.block_size, tuple(group.layer_names)))
    if not plans:
        raise Unsupported("the model has no KV cache")
    return plans


def _kind(spec: KVCacheSpec) -> str:
    inner = getattr(spec, "kv_cache_specs", None)
    if inner is None:
        return type(spec).__name__
    kinds = {type(one).__name__ for one in inner.values()}
    return type(spec).__name__ if kinds <= set(KEPT) else "+".join(sorted(kinds))


def unit_tokens(config: VllmConfig, cache: KVCacheConfig) -> tuple[int, int]:
    """Tokens of one kvtier block, and of one of vLLM's hashes: (the scheduler's block, the hash's block)."""
    from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes

    return resolve_kv_cache_block_sizes(cache, config)


def layout_name(cache: KVCacheConfig) -> str:
    layout = cache.kv_cache_layout
    return str(getattr(layout, "name", layout))


def own_rank(config: VllmConfig) -> tuple[int, int]:
    """(pipeline rank, tensor rank) of this worker, as vLLM names it in the handshake."""
    from vllm.distributed.parallel_state import get_pp_group, get_tp_group

    return get_pp_group().rank_in_group, get_tp_group().rank_in_group


def with_packing(config: VllmConfig, plans: list[GroupPlan]) -> list[GroupPlan]:
    """The same plans with what each group's layers run on. For workers: it needs the model's layers."""
    layers = config.compilation_config.static_forward_context

    def packing(plan: GroupPlan) -> str:
        found: set[str] = set()
        for name in plan.layers:
            layer = layers.get(name)
            backend = getattr(layer, "attn_backend", None)
            found.add(f"{backend.get_name() if backend else 'unknown'}/{getattr(layer, 'isa', 'none')}")
        return "+".join(sorted(found))

    return [replace(plan, packing=packing(plan)) for plan in plans]


def identity_without_weights(config: VllmConfig, cache: KVCacheConfig, settings: Settings) -> EngineIdentity:
    """What this engine is, without reading anything large. Raises Unsupported."""
    import vllm
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import _NON_CRYPTO_HASH_FUNCTIONS, resolve_none_hash_seed

    model, parallel = config.model_config, config.parallel_config
    algorithm = config.cache_config.prefix_caching_hash_algo
    hash_function = get_hash_fn_by_name(algorithm)
    if hash_function in _NON_CRYPTO_HASH_FUNCTIONS:
        # Not collision resistant: two prompts may get one key, and one the other's bytes.
        raise Unsupported(
            f"--prefix-caching-hash-algo {algorithm} is not collision resistant; use sha256_cbor or sha256"
        )
    unit, hashed = unit_tokens(config, cache)
    architectures = getattr(model.hf_config, "architectures", None) or [type(model.hf_config).__name__]
    return EngineIdentity(
        tenant=settings.tenant,
        model=architectures[0],
        weights=settings.weights,
        configuration=configuration_digest(
            model.hf_config.to_dict() | {"quantization": model.quantization, "max_model_len_rope": _rope_length(config)}
        ),
        dtype=str(model.dtype).removeprefix("torch."),
        cache_dtype=str(config.cache_config.cache_dtype),
        unit_tokens=unit,
        hash_tokens=hashed,
        tensor_ranks=parallel.tensor_parallel_size,
        pipeline_ranks=parallel.pipeline_parallel_size,
        engine_release=".".join(vllm.__version__.split(".")[:2]),
        hash_algorithm=algorithm,
        hash_seed=resolve_none_hash_seed(hash_function),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )


def identify(config: VllmConfig, cache: KVCacheConfig, settings: Settings) -> EngineIdentity:
    """The same with the fingerprint of the weights: may take as long as reading them. Raises Unsupported, OSError."""
    identity = identity_without_weights(config, cache, settings)
    if identity.weights:
        return identity
    weights = weights_fingerprint(config.model_config.model, config.model_config.revision)
    if weights is None:
        raise Unsupported(
            f"no weight files in {config.model_config.model!r} to tell models apart by; "
            'name them: "kv_connector_extra_config": {"weights": "a revision"}'
        )
    return replace(identity, weights=weights)


def _rope_length(config: VllmConfig) -> int | None:
    """The context length, where rope scaling depends on it."""
    rope = getattr(config.model_config.hf_config, "rope_parameters", None) or {}
    return config.model_config.max_model_len if "dynamic" in str(rope.get("rope_type", "")) else None
