"""A real kvtierd: one process, one folder, free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import kvtier
import pytest

#: How long anything may take on a busy machine, in seconds.
PATIENCE = 60.0

SMALL = {
    "listen.tcp": "127.0.0.1:0",
    "listen.http": "127.0.0.1:0",
    "host.bytes": "64MiB",
    "host.extent_bytes": "4MiB",
    "host.huge_pages": "off",
    "nvme.bytes": "130MiB",
    "nvme.extent_bytes": "4MiB",
    "wal.segment_bytes": "2MiB",
    "wal.retain_bytes": "16MiB",
    "wal.bytes_max": "64MiB",
    "log.level": "info",
}


def binary() -> Path:
    """The kvtierd of this checkout, or the one KVTIERD names."""
    named = os.environ.get("KVTIERD")
    found = Path(named) if named else Path(__file__).resolve().parents[3] / "target" / "release" / "kvtierd"
    assert found.exists(), f"{found} is not there: cargo build --release --workspace --bins, or set KVTIERD"
    return found


class Daemon:
    """One daemon on one folder; kill() and start() may alternate."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.settings = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def local(self) -> str:
        """The raw socket of the local path; the same after every start."""
        return str(self.data / "local.sock")

    @property
    def unix(self) -> str:
        """The gRPC endpoint that stays the same after every start."""
        return f"unix://{self.data / 'kvtierd.sock'}"

    @property
    def tcp(self) -> str:
        """The gRPC endpoint of this start."""
        listening = tomllib.loads((self.data / "LISTENING").read_text())
        return f"http://{listening['tcp']}"

    def start(self) -> None:
        (self.data / "LISTENING").unlink(missing_ok=True)
        command = [str(binary()), "--create", "--data-directory", str(self.data)]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env={}, text=True)
        self.log: list[str] = []
        self.spoken = threading.Event()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        serves = self.spoken.wait(PATIENCE) and self.process.poll() is None
        if not serves or not (self.data / "LISTENING").exists():
            self.kill()
            raise AssertionError("kvtierd did not serve:\n" + "".join(self.log))

    def read(self) -> None:
        """Follows what the daemon says, until it has ended."""
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.log.append(line)
                if "listening" in line:
                    self.spoken.set()
        self.spoken.set()

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)

    def stop(self) -> None:
        """An orderly end: what is only in host memory is written out as far as there is time."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)

    def pause(self) -> None:
        """Stops it; every thread has stopped when this returns, which the signal alone does not promise."""
        self.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while any(self.state_of(task) not in "Tt" for task in Path(f"/proc/{self.process.pid}/task").iterdir()):
            assert time.monotonic() < deadline, "a thread of the daemon goes on after SIGSTOP"

    @staticmethod
    def state_of(task: Path) -> str:
        """R, S, D, T, ...; T for a thread that has ended meanwhile."""
        try:
            return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "T"

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts a daemon with settings on top of the small ones: start(host__bytes="8MiB")."""
    daemons: list[Daemon] = []

    def begin(**settings: str) -> Daemon:
        daemons.append(Daemon(tmp_path / f"node{len(daemons)}", **settings))
        return daemons[-1]

    yield begin
    for daemon in daemons:
        daemon.kill()


@pytest.fixture(scope="session")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that do it no harm."""
    daemon = Daemon(tmp_path_factory.mktemp("shared"))
    yield daemon
    daemon.kill()


class Node:
    """A daemon, a gRPC client of it, and spaces of its own for one test."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self.name = name
        self.client = kvtier.Client(daemon.unix)

    def space(self, *part_bytes: int, tenant: str = "t") -> bytes:
        """A space of these parts that no other test uses."""
        described = describe(*part_bytes, model=self.name, tenant=tenant)
        return self.client.open_space(self.name, described)

    def local(self, **options: object) -> kvtier.LocalClient:
        return kvtier.LocalClient(self.daemon.local, tenant="t", **options)


def describe(*part_bytes: int, model: str = "m", tenant: str = "t") -> kvtier.SpaceDescription:
    return kvtier.SpaceDescription(tenant=tenant, model=model, tokens_per_block=16, part_bytes=part_bytes)


@pytest.fixture
def node(shared_daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Node]:
    node = Node(shared_daemon, request.node.name)
    with node.client:
        yield node
        for space in node.client.spaces():
            if space.name == node.name:
                node.client.drop_space(space.space)


def keys(count: int, salt: str = "k") -> list[bytes]:
    """A chain's keys."""
    return [f"{salt}{index}".encode() for index in range(count)]


def blocks(count: int, length: int) -> list[bytes]:
    """Random bytes of a chain's blocks."""
    return [os.urandom(length) for _ in range(count)]


def store(client: kvtier.LocalClient, space: bytes, names: list[bytes], contents: list[bytes], **how: object) -> None:
    """Puts a chain over shared memory; every block must be stored."""
    reservation = client.reserve(space, names, [len(content) for content in contents], **how)
    for index, content in enumerate(contents):
        reservation.write(index, [content])
    assert [outcome.kind for outcome in reservation.commit()] == ["stored"] * len(contents)
