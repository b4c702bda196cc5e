"""The types are true: of the native half as it is, of the package, and of the README's code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import PATIENCE
from test_readme import snippets

HERE = Path(__file__).parent


def run(*arguments: str, folder: Path) -> None:
    ran = subprocess.run([sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=4 * PATIENCE)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_stubs_say_what_is_there(tmp_path: Path) -> None:
    allowed = str(HERE / "stubtest.txt")
    run("mypy.stubtest", "kvtier", "--allowlist", allowed, "--ignore-unused-allowlist", folder=tmp_path)


def test_a_stub_that_lies_is_found(tmp_path: Path) -> None:
    import kvtier

    package = tmp_path / "kvtier"
    package.mkdir()
    for file in Path(kvtier.__file__).parent.glob("*.py*"):
        if file.is_file():
            text = file.read_text()
            (package / file.name).write_text(text.replace("def still_valid(self)", "def still_valid(self, twice: int)"))
    ran = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "kvtier", "--allowlist", str(HERE / "stubtest.txt")],
        cwd="/",
        env={"MYPYPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
    assert ran.returncode != 0 and "still_valid" in ran.stdout, ran.stdout + ran.stderr


def test_the_package_and_the_readme_type_check(tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text(snippets())
    run("mypy", "--strict", "-p", "kvtier", folder=tmp_path)
    run("mypy", "--strict", "readme.py", folder=tmp_path)
