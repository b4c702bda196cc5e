"""Two engines share blocks exactly if their bytes are interchangeable."""

import dataclasses
from typing import Any

import pytest
from kvtier.vllm.geometry import GroupShape, Unsupported, WorkerShape
from kvtier.vllm.space import EngineIdentity, configuration_digest, describe_space, part_places

GROUP = GroupShape(
    kind="FullAttentionSpec",
    tokens_per_block=32,
    blocks_per_unit=1,
    dtype="bfloat16",
    page_shapes=((2, 32, 128), (2, 32, 128)),
    page_bytes=(16384, 16384),
    layers=("model.layers.0", "model.layers.1"),
    packing="CPU_ATTN/vec",
)
WORKER = WorkerShape(device="cpu", layout="LBHNC", groups=(GROUP,))
ENGINE = EngineIdentity(
    tenant="t",
    model="LlamaForCausalLM",
    weights="blake3:1",
    configuration="c",
    dtype="bfloat16",
    cache_dtype="auto",
    unit_tokens=32,
    hash_tokens=32,
    tensor_ranks=1,
    pipeline_ranks=1,
    engine_release="0.32",
    hash_algorithm="sha256_cbor",
    hash_seed="vllm-none-hash",
    python="3.11",
)


def digest(engine: EngineIdentity = ENGINE, **workers: Any) -> bytes:
    return describe_space(engine, workers.get("workers", {(0, 0): WORKER})).digest()


def with_group(**changes: Any) -> bytes:
    return digest(workers={(0, 0): dataclasses.replace(WORKER, groups=(dataclasses.replace(GROUP, **changes),))})


def test_engines_that_agree_share_blocks() -> None:
    assert digest() == digest(dataclasses.replace(ENGINE))


OTHERS: dict[str, Any] = {
    "tenant": "u",
    "model": "QwenForCausalLM",
    "weights": "blake3:2",
    "configuration": "d",
    "dtype": "float16",
    "cache_dtype": "fp8",
    "unit_tokens": 64,
    "hash_tokens": 16,
    "engine_release": "0.33",
    "hash_algorithm": "sha256",
    "hash_seed": "another",
    "lora": "blake3:3",
}


@pytest.mark.parametrize("field", OTHERS)
def test_another_value_of_any_field_is_another_space(field: str) -> None:
    assert digest(dataclasses.replace(ENGINE, **{field: OTHERS[field]})) != digest()


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("kind", "SlidingWindowSpec"),
        ("tokens_per_block", 16),
        ("blocks_per_unit", 2),
        ("dtype", "float16"),
        ("page_shapes", ((4, 32, 64), (4, 32, 64))),
        ("page_bytes", (8192, 24576)),
        ("layers", ("model.layers.1", "model.layers.0")),
        ("packing", "CPU_ATTN/amx"),
        ("packing", "FLASH_ATTN/vec"),
    ],
)
def test_another_shape_of_a_group_is_another_space(field: str, other: Any) -> None:
    assert with_group(**{field: other}) != digest()


def test_no_field_of_the_identity_is_forgotten_here() -> None:
    elsewhere = {"tensor_ranks", "pipeline_ranks", "python"}
    assert {field.name for field in dataclasses.fields(EngineIdentity)} == OTHERS.keys() | elsewhere


def test_layout_and_ranks_are_part_of_it() -> None:
    assert digest(workers={(0, 0): dataclasses.replace(WORKER, layout="BLHNC")}) != digest()
    two = dataclasses.replace(ENGINE, tensor_ranks=2)
    pipeline = dataclasses.replace(ENGINE, pipeline_ranks=2)
    by_tensor = digest(two, workers={(0, 0): WORKER, (0, 1): WORKER})
    by_pipeline = digest(pipeline, workers={(0, 0): WORKER, (1, 0): WORKER})
    assert len({digest(), by_tensor, by_pipeline}) == 3


def test_python_counts_only_where_keys_are_pickles() -> None:
    newer = dataclasses.replace(ENGINE, python="3.12")
    assert digest(newer) == digest()
    pickled = dataclasses.replace(ENGINE, hash_algorithm="sha256")
    assert digest(dataclasses.replace(pickled, python="3.12")) != digest(pickled)


def test_a_configuration_differs_by_what_it_computes_not_by_where_it_lies() -> None:
    here = {"_name_or_path": "/a", "rope_parameters": {"rope_theta": 1e4}, "hidden_size": 64}
    assert configuration_digest(here) == configuration_digest(here | {"_name_or_path": "/b"})
    assert configuration_digest(here) != configuration_digest(here | {"rope_parameters": {"rope_theta": 5e5}})


def test_each_rank_has_its_own_parts() -> None:
    two = dataclasses.replace(WORKER, groups=(GROUP, dataclasses.replace(GROUP, page_bytes=(4096, 4096))))
    assert part_places({(0, 1): two, (0, 0): two}) == {(0, 0): (0, 0), (0, 1): (2, 40960)}


def test_a_missing_worker_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"workers \[\(0, 0\)\] instead of"):
        digest(dataclasses.replace(ENGINE, tensor_ranks=2))


def test_a_block_that_is_too_large_is_refused_with_the_remedy() -> None:
    large = dataclasses.replace(GROUP, page_bytes=(64 << 20, 1))
    with pytest.raises(Unsupported, match="smaller --block-size"):
        digest(workers={(0, 0): dataclasses.replace(WORKER, groups=(large,))})
