"""Compiling to object files, again only where something that one depends on has changed."""

import os
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Object:
    """An object file and the compiler call for it, without the arguments that name files."""

    path: Path
    source: Path
    command: tuple[str, ...]  # of a compiler that takes -c, -o, -MD and -MF, as gcc and nvcc do

    @property
    def record(self) -> Path:
        """The command of the last compilation."""
        return self.path.with_suffix(".command")

    @property
    def dependencies(self) -> Path:
        """What the compiler read, as a rule of make."""
        return self.path.with_suffix(".d")

    def is_current(self) -> bool:
        try:
            if self.record.read_text() != " ".join(self.command):
                return False
            rule = self.dependencies.read_text().replace("\\\n", " ")
            built = self.path.stat().st_mtime_ns
            return all(os.stat(name).st_mtime_ns <= built for name in rule.split(":", 1)[1].split())
        except OSError:
            return False

    def compile(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.record.unlink(missing_ok=True)
        files = ["-c", str(self.source), "-o", str(self.path), "-MD", "-MF", str(self.dependencies)]
        start = time.time_ns()
        subprocess.run([*self.command, *files], check=True)
        os.utime(self.path, ns=(start, start))  # what is changed while the compiler runs is newer
        self.record.write_text(" ".join(self.command))


def compile_changed(objects: Sequence[Object]) -> None:
    """Compile what is not current, in as many processes as there are CPUs, or as MAX_JOBS says.

    Raises:
        subprocess.CalledProcessError: a compiler failed; it has said why.
    """
    changed = [o for o in objects if not o.is_current()]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        list(pool.map(Object.compile, changed))
