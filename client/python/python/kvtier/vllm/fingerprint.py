"""Fingerprints of weights: equal exactly for equal files.

Every byte counts: two fine-tunes of one model have files of the same names and sizes. BLAKE3 reads at the speed of the
disk (the engine has just read the same files, so mostly at that of memory). A revision that names its content, as model
hubs have them, saves the reading.
"""

# mypy: disable-error-code="import-not-found,no-any-return"
# The package is type-checked without vLLM, torch and blake3.

from __future__ import annotations

import hashlib
import re
from pathlib import Path

#: Files that hold weights.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
#: Folders of a hub's cache are named after the commit they hold.
SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/?$")
CHUNK = 16 << 20


def weights_fingerprint(model: str, revision: str | None) -> str | None:
    """The fingerprint of a model folder or a file; None when there is nothing to read, and a person must give one."""
    path = Path(model)
    commit = SNAPSHOT.search(str(path.resolve()) if path.exists() else model)
    if commit:
        return f"commit:{commit[1]}"
    if path.is_file():
        return files_fingerprint([path])
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
        return files_fingerprint(found) if found else None
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        return f"commit:{revision}"
    return None


def adapter_fingerprint(path: str) -> str | None:
    """The same for the folder of a LoRA adapter; its configuration scales the weights, so it counts too."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    found = sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS or file.name == "adapter_config.json")
    return files_fingerprint(found) if found else None


def files_fingerprint(files: list[Path]) -> str:
    """Over names and contents. Raises OSError."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{len(file.name)}:{file.name}:".encode())
        whole.update(_content(file))
    return f"blake3:{whole.hexdigest()}"


def _content(file: Path) -> bytes:
    # vLLM depends on it.
    from blake3 import blake3

    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(file)
    return hasher.digest()
