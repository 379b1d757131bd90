"""PEP 517 build backend: setuptools, compiling against the torch that is already installed, if one is.

pip builds in an isolated environment in which the caller's packages cannot be imported, so a plain build
requirement on torch downloads a second one, and possibly another version than the package will run with. The
isolated process still runs under the caller's interpreter, though: a child of it in isolated mode (`-I`) sees
the caller's packages. If that child has a recent enough torch, its folder goes to the end of the path (the
isolated setuptools stays in front) and no torch is asked for.
"""

import importlib.util
import json
import subprocess
import sys

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (hooks that pip looks up here)
    build_sdist,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

OLDEST_TORCH = (2, 11)
TORCH_REQUIREMENT = "torch>=" + ".".join(map(str, OLDEST_TORCH))

_PROBE = """
import json, pathlib, torch
print(json.dumps([torch.__version__, str(pathlib.Path(torch.__file__).parent.parent)]))
"""


def installed_torch() -> str | None:
    """The folder of the caller's packages if it holds a torch that we can build against, else None."""
    probe = subprocess.run([sys.executable, "-I", "-c", _PROBE], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return None
    version, folder = json.loads(probe.stdout.splitlines()[-1])
    return folder if is_recent(version) else None


def is_recent(version: str) -> bool:
    """Whether a version such as "2.13.0+cpu" or "2.12.0a0+git1" is OLDEST_TORCH or later."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= OLDEST_TORCH


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return [] if installed_torch() else [TORCH_REQUIREMENT]


get_requires_for_build_editable = get_requires_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    _make_torch_importable()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None) -> str:
    _make_torch_importable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def _make_torch_importable() -> None:
    if importlib.util.find_spec("torch") is None and (folder := installed_torch()):
        sys.path.append(folder)
