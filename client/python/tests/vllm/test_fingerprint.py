from pathlib import Path

from kvtier.vllm.fingerprint import adapter_fingerprint, weights_fingerprint


def model(folder: Path, content: bytes) -> str:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}")
    return str(folder)


def test_equal_files_have_equal_fingerprints_wherever_they_are(tmp_path: Path) -> None:
    here, there = model(tmp_path / "a", b"w" * 9000), model(tmp_path / "b", b"w" * 9000)
    assert weights_fingerprint(here, None) == weights_fingerprint(there, None)


def test_one_bit_of_a_fine_tune_makes_another_fingerprint(tmp_path: Path) -> None:
    content = bytearray(b"w" * (1 << 20))
    here = model(tmp_path / "a", bytes(content))
    content[777_777] ^= 1
    assert weights_fingerprint(here, None) != weights_fingerprint(model(tmp_path / "b", bytes(content)), None)


def test_a_commit_of_a_hub_stands_for_its_files(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert weights_fingerprint(model(tmp_path / "snapshots" / commit, b"w"), None) == f"commit:{commit}"
    assert weights_fingerprint("someone/model", commit) == f"commit:{commit}"


def test_what_cannot_be_read_has_none(tmp_path: Path) -> None:
    assert weights_fingerprint("someone/model", "main") is None
    assert weights_fingerprint(str(tmp_path), None) is None
    assert adapter_fingerprint(str(tmp_path / "gone")) is None


def test_an_adapters_scale_counts(tmp_path: Path) -> None:
    def adapter(name: str, alpha: int) -> str:
        folder = model(tmp_path / name, b"lora")
        (Path(folder) / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
        return folder

    assert adapter_fingerprint(adapter("a", 8)) == adapter_fingerprint(adapter("b", 8))
    assert adapter_fingerprint(adapter("c", 16)) != adapter_fingerprint(adapter("d", 8))
