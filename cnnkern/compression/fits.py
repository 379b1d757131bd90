"""Finished fits, kept in a folder: a search that was interrupted takes them up again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from pathlib import Path

from torch import nn

from cnnkern import _C
from cnnkern.compression.methods import Strength, method_named
from cnnkern.compression.storage import load, save
from cnnkern.nn.convolution import arguments_of


class Fits:
    """Layers made by a method, read from `folder` where they are there, and written to it when they are made.

    Args:
        folder: made if it is missing; None keeps nothing.
        seed: of the fits.

    Raises OSError for a folder that cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike | None, seed: int) -> None:
        self.folder = None if folder is None else Path(folder)
        self.seed = seed
        if self.folder is not None:  # better now than after the first fit
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder):
                    pass
            except OSError as error:
                raise OSError(f"cache: expected a folder to write to, got {self.folder}: {error}") from error

    def get(self, conv: nn.Conv2d, method: str, strength: Strength, size: tuple[int, int]) -> nn.Module:
        """The layer in eval mode; a file that is damaged or of another version is made anew."""
        path = None if self.folder is None else self.folder / f"{self._key(conv, method, strength, size)}.fit"
        if path is not None and path.is_file():
            try:
                return load(path, conv).eval()
            except (OSError, ValueError):
                pass
        layer = method_named(method).make(conv, strength, size, self.seed).eval()
        if path is not None:
            try:
                save(layer, path)
            except OSError as error:  # such as a full disk, which is no reason to lose the search
                warnings.warn(f"cache: a fit is not kept: {error}", RuntimeWarning, stacklevel=2)
        return layer

    def _key(self, conv: nn.Conv2d, method: str, strength: Strength, size: tuple[int, int]) -> str:
        """Of all that the fit depends on."""
        asked = [arguments_of(conv), method, strength, size, self.seed, _C.build_info()["version"]]
        digest = hashlib.sha256(json.dumps(asked).encode())
        for tensor in (conv.weight, conv.bias):
            if tensor is not None:
                digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:32]
