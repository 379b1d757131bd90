"""Where the examples keep files, and how they write them: whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Unavailable(RuntimeError):
    """Data that an example needs could not be had; the message says what to do about it."""


def cache_directory() -> Path:
    """The user's cache folder for cnnkern: ``$XDG_CACHE_HOME/cnnkern``, else ``~/.cache/cnnkern``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "cnnkern"


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name ``path`` only if the block succeeds.

    A reader sees the old file or the complete new one. The parent folder is made if it is missing. The
    temporary name keeps the suffix, for writers that choose a format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def write_json(path: Path, document: dict) -> None:
    """Writes ``document`` as JSON, whole or not at all; numbers that JSON does not have become null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(finite, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
