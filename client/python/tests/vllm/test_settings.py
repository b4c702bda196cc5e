import dataclasses

import kvtier
import pytest
from kvtier.vllm.settings import BOUNDS, Settings


def test_a_folder_is_all_that_must_be_said() -> None:
    settings = Settings.read({"data_directory": "/var/lib/kvtier"})
    assert settings.socket_path == "/var/lib/kvtier/local.sock"
    assert settings.grpc_endpoint == "unix:///var/lib/kvtier/kvtierd.sock"


def test_every_problem_is_named_in_one_message() -> None:
    with pytest.raises(kvtier.InvalidArgument) as refused:
        Settings.read({"load_timeout": 3, "lease_ms": "long", "store": "some", "load_threads": 0, "verify": 1})
    for name in (
        "load_timeout: no such setting",
        "lease_ms: 'long' is a str",
        "store: 'some'",
        "load_threads: 0",
        "verify: 1",
    ):
        assert name in str(refused.value)


def test_a_daemon_must_be_named() -> None:
    with pytest.raises(kvtier.InvalidArgument, match="data_directory: missing"):
        Settings.read({"endpoint": "unix:///run/kvtierd.sock"})


def test_defaults_are_within_their_bounds() -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    for name, (low, high) in BOUNDS.items():
        assert low <= defaults[name] <= high, name
