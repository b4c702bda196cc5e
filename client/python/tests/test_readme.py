"""README.md does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import PATIENCE

README = Path(__file__).parents[1] / "README.md"


def snippets() -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))


def test_the_readme_runs(start, tmp_path: Path) -> None:
    daemon = start()
    (tmp_path / "kvtier-data").symlink_to(daemon.data)
    ran = subprocess.run(
        [sys.executable, "-c", snippets()], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.splitlines()
    assert said[0] == "['stored', 'stored']"
    assert said[1].startswith("2 <kvtier.Miss 2: never_stored")
    assert said[2:] == ["0 65536 host", "1 65536 host"]


def test_every_public_name_is_in_the_readme_or_documented() -> None:
    import kvtier

    text = README.read_text()
    undocumented = [name for name in kvtier.__all__ if name not in text and not getattr(kvtier, name).__doc__]
    assert undocumented == ["__version__"] or undocumented == []
    for name in kvtier.__all__:
        kind = getattr(kvtier, name)
        if isinstance(kind, type):
            public = [attribute for attribute in vars(kind) if not attribute.startswith("_")]
            silent = [attribute for attribute in public if not getattr(kind, attribute).__doc__ and callable(getattr(kind, attribute))]
            assert silent == [], f"{name} has methods without a word: {silent}"
