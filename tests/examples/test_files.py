"""Files of the examples appear whole or not at all."""

from pathlib import Path

import pytest

from cnnkern.compression.files import written_whole
from examples.files import cache_directory


def test_file_appears_whole(tmp_path: Path):
    target = tmp_path / "new" / "results.json"
    with written_whole(target) as path:
        assert path.suffix == ".json"
        path.write_text("{}")
        assert not target.exists()
    assert target.read_text() == "{}"
    assert list(target.parent.iterdir()) == [target]


def test_failure_leaves_the_old_file(tmp_path: Path):
    target = tmp_path / "results.json"
    target.write_text("old")

    def interrupted() -> None:
        with written_whole(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "cnnkern"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_directory() == tmp_path / "home" / ".cache" / "cnnkern"
