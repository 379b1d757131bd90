"""Where the examples keep files, and how they write results."""

import json
import os
from pathlib import Path

from cnnkern.compression.files import written_whole


class Unavailable(RuntimeError):
    """Data that an example needs could not be had; the message says what to do about it."""


def cache_directory() -> Path:
    """The user's cache folder for cnnkern: ``$XDG_CACHE_HOME/cnnkern``, else ``~/.cache/cnnkern``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "cnnkern"


def write_json(path: Path, document: dict) -> None:
    """Writes ``document`` as JSON, whole or not at all; numbers that JSON does not have become null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(finite, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
