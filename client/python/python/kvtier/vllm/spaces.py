"""The spaces of one engine: one for the model, one for each LoRA adapter in use.

Fingerprints read files and opening a space asks the daemon, so both happen in threads: the link's own for the model,
one more for adapters. A request whose space is not there yet is computed.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import kvtier
from kvtier.vllm.fingerprint import adapter_fingerprint
from kvtier.vllm.link import CONNECT_TIMEOUT, ping
from kvtier.vllm.settings import Settings

#: Adapters that may be in use at a time; of more, the requests are computed.
ADAPTERS_MAX = 1024


class Spaces:
    """Names of spaces by adapter. Thread-safe."""

    def __init__(
        self, settings: Settings, describe: Callable[[], kvtier.SpaceDescription], say: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._describe = describe
        self._say = say
        self._lock = threading.Lock()
        self._model: kvtier.SpaceDescription | None = None
        #: Makes blocks from before a change of weights unreachable.
        self._edition = ""
        #: By adapter name and path; None while it is being opened, or for good when its files cannot be read.
        self._adapters: dict[tuple[str, str], kvtier.SpaceDescription | None] = {}
        self._opened: dict[tuple[str, str] | None, bytes] = {}
        #: Made once: it connects anew by itself.
        self._grpc: kvtier.Client | None = None
        # The lock is never held across a call.
        self._threads = ThreadPoolExecutor(1, "kvtier-space")

    def connect(self, name: str, kept: kvtier.LocalClient | None) -> kvtier.LocalClient:
        """Opens every space that is in use and attaches. For Link; may take as long as reading the weights."""
        if self._model is None:
            self._model = self._describe()
        with self._lock:
            edition = self._edition
            wanted = {None: self._model} | {name: held for name, held in self._adapters.items() if held is not None}
        client = self._client()
        opened = {adapter: self._open(client, described, edition) for adapter, described in wanted.items()}
        with self._lock:
            if edition == self._edition:
                self._opened |= opened
        return attach(self._settings, name, "reader", kept)

    def find(self, adapter: tuple[str, str] | None) -> bytes | None:
        """The space of an adapter (None: of the model itself), or None while there is none. Never waits."""
        space = self._opened.get(adapter)
        if space is None and adapter is not None:
            with self._lock:
                if adapter not in self._adapters and len(self._adapters) < ADAPTERS_MAX and self._model is not None:
                    self._adapters[adapter] = None
                    self._threads.submit(self._add, adapter)
        return space

    def renew(self) -> None:
        """From now on other spaces: what was stored before belongs to weights that may have been replaced."""
        with self._lock:
            self._edition = f" edition:{uuid.uuid4().hex}"
            self._opened = {}

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            client, self._grpc = self._grpc, None
        if client is not None:
            client.close()

    def _add(self, adapter: tuple[str, str]) -> None:
        try:
            fingerprint = adapter_fingerprint(adapter[1])
            if fingerprint is None or self._model is None:
                self._say(f"kvtier: adapter {adapter[0]}: no files in {adapter[1]}, its prompts are computed")
                return
            described = replace(self._model, lora=fingerprint)
            edition = self._edition
            space = self._open(self._client(), described, edition)
            with self._lock:
                self._adapters[adapter] = described
                if edition == self._edition:
                    self._opened[adapter] = space
        except (kvtier.Error, OSError) as error:
            self._say(f"kvtier: adapter {adapter[0]}: {error}")
            with self._lock:
                self._adapters.pop(adapter, None)

    def _client(self) -> kvtier.Client:
        with self._lock:
            if self._grpc is None:
                endpoint = self._settings.grpc_endpoint
                self._grpc = kvtier.Client(
                    endpoint, connect_timeout=CONNECT_TIMEOUT, call_timeout=CONNECT_TIMEOUT, lazy=True
                )
            return self._grpc

    def _open(self, client: kvtier.Client, described: kvtier.SpaceDescription, edition: str) -> bytes:
        described = replace(described, weights=described.weights + edition)
        return client.open_space(f"vllm-{described.digest().hex()[:16]}", described)


def attach(
    settings: Settings, name: str, role: Literal["writer", "reader"], kept: kvtier.LocalClient | None
) -> kvtier.LocalClient:
    """A client of the local path with this engine's bounds, that gets answers. Raises kvtier.Error."""
    client = kept or kvtier.LocalClient(
        settings.socket_path,
        tenant=settings.tenant,
        name=name,
        role=role,
        connect_timeout=CONNECT_TIMEOUT,
        call_timeout=CONNECT_TIMEOUT,
        wait_timeout=settings.load_timeout_ms / 1000,
        threads=settings.load_threads,
        # The reader is the scheduler's, which nudges it once in a step.
        notes_at_once=role == "writer",
    )
    ping(client)
    return client
