"""The space identity: equal for equal descriptions, different for any difference."""

from __future__ import annotations

import dataclasses
import pickle

import kvtier
import pytest
from conftest import describe

OTHER = {str: "other", int: 2, tuple: (7, 8), type(None): "other"}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(kvtier.SpaceDescription)])
def test_every_field_is_part_of_the_digest(field: str) -> None:
    one = describe(4096)
    other = dataclasses.replace(one, **{field: OTHER[type(getattr(one, field))]})
    assert one.digest() == describe(4096).digest() != other.digest()
    assert len(other.digest()) == 32


def test_a_description_is_frozen_compared_and_pickled() -> None:
    one = describe(1, 2)
    assert pickle.loads(pickle.dumps(one)) == one and hash(one) == hash(describe(1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.model = "other"


def test_what_no_daemon_would_accept_is_refused_without_one() -> None:
    with pytest.raises(kvtier.InvalidArgument) as raised:
        dataclasses.replace(describe(1), tokens_per_block=0).digest()
    assert raised.value.field == "tokens_per_block"
    with pytest.raises(kvtier.InvalidArgument, match="1024 bytes"):
        dataclasses.replace(describe(1), weights="x" * 1025).digest()
    with pytest.raises(TypeError, match="tokens_per_block"):
        dataclasses.replace(describe(1), tokens_per_block=-1).digest()


def test_errors_survive_pickling() -> None:
    with pytest.raises(kvtier.InvalidArgument) as raised:
        describe().digest()
    again = pickle.loads(pickle.dumps(raised.value))
    assert (type(again), str(again), again.field) == (kvtier.InvalidArgument, str(raised.value), "parts")
