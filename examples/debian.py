"""Files of Debian packages: the installed ones, else a copy unpacked into the user's cache, which needs no
root."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from examples.files import Unavailable

Missing = Callable[[Path], list[str]]
"""What a folder lacks, in words; nothing for a complete one."""


def package_folder(package: str, installed: Path, cached: Path, missing: Missing, what: str) -> Path:
    """The folder of a Debian package that holds what is wanted: ``installed``, which is where the package
    puts it, or ``cached``, which is filled from the package first if need be.

    ``what`` names the contents and their size to whoever waits. Raises Unavailable, which says why.
    """
    for folder in (installed, cached):
        if not missing(folder):
            return folder
    reason = _no_apt()
    if reason is None:
        print(f"fetching {what} (Debian package {package}) into {cached}", file=sys.stderr)
        reason = _unpack(package, installed, cached, missing)
    if reason is not None:
        raise Unavailable(reason)
    return cached


def _no_apt() -> str | None:
    absent = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    return f"{' and '.join(absent)} not found, which fetch and unpack the Debian package." if absent else None


def _unpack(package: str, installed: Path, target: Path, missing: Missing) -> str | None:
    """Downloads and unpacks the package; ``target`` appears complete or not at all. The failure, if any."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        work = Path(scratch)
        failure = _apt_get(work, ["download", package])
        if failure is not None:
            # No package lists yet, or old ones. A private copy of the lists needs no root.
            (work / "lists" / "partial").mkdir(parents=True)
            (work / "cache" / "archives" / "partial").mkdir(parents=True)
            private = ["-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache",
                       "-o", "Debug::NoLocking=1"]  # fmt: skip
            failure = _apt_get(work, [*private, "update"]) or _apt_get(work, [*private, "download", package])
        if failure is not None:
            return failure
        archive = next(work.glob(f"{package}_*.deb"))
        failure = _run(["dpkg-deb", "-x", str(archive), str(work / "root")], work)
        if failure is not None:
            return failure
        unpacked = work / "root" / installed.relative_to("/")
        lacking = missing(unpacked)
        if lacking:
            return f"the package has no {', '.join(lacking)}"
        if target.exists():
            # An incomplete folder left by hand or by an older version.
            target.rename(work / "replaced")
        unpacked.rename(target)
    return None


def _apt_get(work: Path, arguments: list[str]) -> str | None:
    return _run(["apt-get", "-q", *arguments], work)


def _run(command: list[str], folder: Path) -> str | None:
    """Runs ``command`` in ``folder``; None if it succeeded, else one line that says how it failed."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
    reason = next((line for line in lines if line.startswith("E:")), lines[-1])
    return f"{command[0]} failed: {reason}"
