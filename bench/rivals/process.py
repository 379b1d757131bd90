"""A rival in a process of its own, which is asked over a pipe: requests in JSON, answered with seconds."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor


class RivalProcess:
    """The other process, running `python -m MODULE ARGUMENTS...`; a context manager.

    `folder` is for the files that both sides read, and goes with the process.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="cnnkern-bench-")
        self.folder = Path(self._directory.name)
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._directory.cleanup()

    def ask(self, **request: str | int) -> float:
        """Send one request; the answer is the seconds that it took."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self._module} ended with {self._process.wait()}")
        return float(answer)


class RivalCall:
    """One model in the other process, as a contender.

    Its files there are `path` with the suffixes .npy, of its input, and .out.npy.
    """

    def __init__(self, name: str, process: RivalProcess, path: Path) -> None:
        self.name, self._process, self._path = name, process, path

    def output(self, x: Tensor | None = None) -> Tensor:
        """What the model makes of its input, or of another one."""
        result, request = self._path.with_suffix(".out.npy"), {}
        if x is not None:
            other = self._path.with_suffix(".other.npy")
            np.save(other, x.numpy())
            request["input"] = str(other)
        self._process.ask(model=str(self._path), result=str(result), **request)
        return torch.from_numpy(np.load(result)).float()

    def burst(self, calls: int) -> float:
        """Seconds of calls in a row."""
        return self._process.ask(model=str(self._path), calls=calls)
