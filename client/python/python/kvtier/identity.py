"""What makes two blocks interchangeable: the description of a space, and the digest that names it."""

from __future__ import annotations

from dataclasses import dataclass

from kvtier import _native

__all__ = ["SpaceDescription", "space_digest"]


@dataclass(frozen=True, kw_only=True)
class SpaceDescription:
    """Everything that must be equal for two blocks with one key to be interchangeable.

    Any difference makes another space. Texts have at most 1,024 bytes and no control characters.
    """

    #: Who may read and evict these blocks.
    tenant: str
    #: Model name, for people.
    model: str
    #: Tokens one block covers, at least 1.
    tokens_per_block: int
    #: Bytes of every part (local rank, KV-cache group), in their order in the block: 1 to 64 parts, 64 MiB in all. The
    #: size of a single part is a maximum, sizes of several are exact.
    part_bytes: tuple[int, ...]
    #: Fingerprint of the weights. Two fine-tunes under one model name must differ here.
    weights: str = ""
    #: Element type of the KV bytes, such as "bf16".
    dtype: str = ""
    #: KV quantisation scheme and scales; empty when none.
    kv_quantisation: str = ""
    #: Memory layout of a block's bytes, such as "LBHNC".
    layout: str = ""
    #: Ranks of tensor parallelism.
    tensor_ranks: int = 1
    #: Ranks of pipeline parallelism.
    pipeline_ranks: int = 1
    #: Ranks of context parallelism.
    context_ranks: int = 1
    #: Attention backend, as far as it changes the bytes.
    attention_backend: str = ""
    #: CPU ISA or GPU packing, as far as it changes the bytes.
    packing: str = ""
    #: LoRA adapter, unless the engine's key covers it.
    lora: str | None = None
    #: Cache salt, unless the engine's key covers it.
    salt: str | None = None
    #: How keys are computed, such as "vllm-sha256-cbor"; empty: only the engine knows.
    key_recipe: str = ""
    #: The recipe's seed.
    key_seed: str = ""

    def digest(self) -> bytes:
        """The 32 bytes that name the space, as the daemon computes them. Raises InvalidArgument."""
        return _native.space_digest(self)


def space_digest(description: SpaceDescription) -> bytes:
    """The same as description.digest()."""
    return _native.space_digest(description)
