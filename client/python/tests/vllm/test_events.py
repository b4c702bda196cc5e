"""KV events between vLLM and the daemon, in both directions, over libzmq."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvtier
import pytest

#: How long anything may take on a busy machine, in seconds.
PATIENCE = 60.0

SPACE = kvtier.SpaceDescription(tenant="default", model="m", tokens_per_block=32, part_bytes=(65536,))


def store(worker: kvtier.LocalClient, space: bytes, names: list[bytes]) -> None:
    """Puts a chain of small blocks."""
    reservation = worker.reserve(space, names, 1000)
    for index in range(len(names)):
        reservation.write(index, [bytes(1000)])
    assert [outcome.kind for outcome in reservation.commit()] == ["stored"] * len(names)


class Held:
    """What engines hold, as the node's events tell."""

    def __init__(self, client: kvtier.Client) -> None:
        self.events = client.events("tail")
        self.keys: dict[bytes, bytes] = {}
        self.resets: list[str] = []

    def read_until(self, wanted: Callable[[Held], bool]) -> None:
        while not wanted(self):
            batch = self.events.next(timeout=PATIENCE)
            assert batch is not None, (len(self.keys), self.resets)
            for event in batch.events:
                if event.kind == "stored" and event.engine == "gpu0":
                    assert event.tier == "hbm"
                    self.keys[event.block] = event.key
                elif event.kind == "removed" and event.engine == "gpu0":
                    del self.keys[event.block]
                elif event.kind == "engine_reset":
                    self.keys.clear()
                    self.resets.append(event.cause)


def test_blocks_in_a_real_engines_cache_are_told_of_until_it_dies(
    start: Callable[..., Any], engine: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", "0")
    endpoints = {"endpoint": f"ipc://{tmp_path}/events", "replay_endpoint": f"ipc://{tmp_path}/replay"}
    settings = {f"engine_events.gpu0.{key}": value for key, value in endpoints.items()}
    daemon = start(**settings, **{"engine_events.gpu0.space": "engine"})
    with kvtier.Client(daemon.unix) as client:
        client.open_space("engine", SPACE)
        held = Held(client)
        one = engine("tiny", events=endpoints)
        prompts = [[(number * step) % 200 + 3 for number in range(200)] for step in (1, 3)]

        def cached() -> set[bytes]:
            return {bytes.fromhex(key) for key in one.ask("blocks")["blocks"]}

        one.generate(prompts, tokens=1)
        before = cached()
        assert len(before) == 12
        held.read_until(lambda held: set(held.keys.values()) == before)
        # What vLLM did between steps it publishes with the next one.
        assert one.ask("forget") == {"done": True}
        one.generate(prompts[:1], tokens=1)
        after = cached()
        assert after < before
        held.read_until(lambda held: bool(held.resets) and set(held.keys.values()) == after)
        assert held.resets == ["the engine cleared its cache"]
        one.kill()
        held.read_until(lambda held: not held.keys)
        assert held.resets[1].startswith("the engine cannot be followed")


# Importing vLLM brings warnings of torch's.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hashes", ["int", "bytes"])
def test_what_the_daemon_publishes_is_what_vllms_own_classes_read(
    start: Callable[..., Any], tmp_path: Path, hashes: str
) -> None:
    import msgspec
    import zmq
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

    live, replay = f"ipc://{tmp_path}/live", f"ipc://{tmp_path}/replay"
    daemon = start(
        publish_events__endpoint=live, publish_events__replay_endpoint=replay, publish_events__hashes=hashes
    )
    decoder = msgspec.msgpack.Decoder(type=KVEventBatch)
    with zmq.Context() as context, kvtier.Client(daemon.unix) as client:
        space = client.open_space("published", SPACE)
        names = [f"0123456789{number}".encode() for number in range(10)]
        stored: list[Any] = []
        with (
            context.socket(zmq.SUB) as subscriber,
            context.socket(zmq.DEALER) as asker,
            kvtier.LocalClient(daemon.local, tenant="default") as worker,
        ):
            store(worker, space, names)
            subscriber.subscribe(b"")
            subscriber.connect(live)
            asker.connect(replay)

            def replayed(first: int) -> list[tuple[int, Any]]:
                asker.send_multipart((b"", first.to_bytes(8, "big")))
                batches = []
                while True:
                    assert asker.poll(PATIENCE * 1000)
                    _, _, number, payload = asker.recv_multipart()
                    if int.from_bytes(number, "big", signed=True) == -1:
                        return batches
                    batches.append((int.from_bytes(number, "big"), decoder.decode(payload)))

            batches = []
            while sum(len(event.block_hashes) for event in stored if event.medium == "CPU") < 10:
                batches = replayed(0)
                events = [event for _, batch in batches for event in batch.events]
                stored = [event for event in events if isinstance(event, BlockStored)]
            assert [number for number, _ in batches] == list(range(len(batches)))
            assert isinstance(batches[0][1].events[0], AllBlocksCleared)
            hashed = {hash for event in stored if event.medium == "CPU" for hash in event.block_hashes}
            as_number = {int.from_bytes(name[-8:], "big") for name in names}
            assert hashed == (as_number if hashes == "int" else set(names))
            assert all(event.block_size == 32 and event.ownership == "kvtier" for event in stored)
            # A subscription takes effect when it has arrived: something is stored until it is heard of.
            noise = 0
            while not subscriber.poll(100):
                store(worker, space, [f"noise{noise}".encode()])
                noise += 1
            client.delete(space, names)
            removed: set[Any] = set()
            while removed != hashed:
                assert subscriber.poll(PATIENCE * 1000), "a live subscriber hears of it"
                _, number, payload = subscriber.recv_multipart()
                for event in decoder.decode(payload).events:
                    if isinstance(event, BlockRemoved) and event.medium == "CPU":
                        removed |= set(event.block_hashes)
            assert replayed(int.from_bytes(number, "big"))[0][0] == int.from_bytes(number, "big")
