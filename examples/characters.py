"""Characters of real fonts, in the spirit of CharNet's data: 0-9 and letters, 24x24 grey, 36 classes.

The fonts are those of the Debian packages ``fonts-aenigma`` (465 decorative ones) and ``fonts-freefont-ttf``
(12 ordinary ones), or one's own. What cannot be read is left out:

- a character that its font lacks, or draws like one of another class: O and 0, l and 1 in half of the fonts;
- a font with fewer than FEWEST characters left, or of whose characters fewer than LEGIBLE look more like the
  mean image of a character of their class, over all fonts, than of any other.

Fonts whose names begin with the same word are a family: all are for training, or all are for the test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from tqdm import tqdm

from examples.datasets import Split
from examples.debian import package_folder
from examples.files import Unavailable, cache_directory

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

CHARACTERS = digits + ascii_uppercase + ascii_lowercase
CLASSES = digits + ascii_uppercase
LABELS = np.array([CLASSES.index(character.upper()) for character in CHARACTERS])
SIZE = 24
INK = 18  # pixels, the longer side of the box that ink fills
POINTS = 72  # at which fonts are drawn, to be scaled down

ALIKE = 0.98  # cosine of two images
FEWEST = 50
LEGIBLE = 0.3
TEST_SHARE = 0.2

# What distorts an image: pixels to either side, factors, and the noise's deviation; ink is 1 on 0.
SHIFT = 2.0
SCALES = 0.85, 1.15
CONTRASTS = 0.5, 1.0
NOISE = 0.08


@dataclass(frozen=True)
class FontPackage:
    """A Debian package whose fonts, ``count`` of them, are in one folder."""

    name: str
    folder: str
    count: int
    megabytes: int

    def at_hand(self) -> Path:
        """The folder with the fonts, fetched if need be. Raises Unavailable."""
        installed = Path("/usr/share/fonts/truetype") / self.folder
        cached = cache_directory() / "fonts" / self.folder
        what = f"{self.count} fonts, {self.megabytes} MB"
        return package_folder(self.name, installed, cached, self._missing, what)

    def _missing(self, folder: Path) -> list[str]:
        found = len(_font_files(folder))
        return [] if found >= self.count else [f"{self.count - found} of {self.count} fonts"]


PACKAGES = (
    FontPackage("fonts-aenigma", "aenigma", 465, 7),
    FontPackage("fonts-freefont-ttf", "freefont", 12, 3),
)


class Characters(NamedTuple):
    """What fonts gave: training images as drawn, ink 1 on 0; test images each distorted once.

    ``found`` fonts there were, and ``used`` of them could be read.
    """

    training: Split
    test: Split
    found: int
    used: int


def characters(fonts: str | os.PathLike | None = None, most: int | None = None) -> Characters:
    """The characters of the fonts in the folder ``fonts`` and below, or of the Debian packages; needs Pillow.

    With ``most``, of that many fonts at most. Raises Unavailable if there are no fonts of two families.
    """
    files = _font_files(Path(fonts)) if fonts is not None else _packaged()
    files = files[:: max(1, -(-len(files) // most))] if most else files
    if not files:
        raise Unavailable(f"{fonts}: no .ttf or .otf file in it or below")
    drawn = [_draw(file) for file in tqdm(files, desc="drawing fonts", unit="font", leave=False)]
    families, images = [family for family, _ in drawn], np.stack([images for _, images in drawn])
    kept = readable(images)
    used = kept.any(axis=1)
    in_test = _for_test(families, used)
    if not 0 < (used & in_test).sum() < used.sum():
        raise Unavailable(f"{fonts or 'the packages'}: fewer than two families of fonts that can be read")
    training, test = (_split(images, kept & share[:, None]) for share in (~in_test, in_test))
    test = Split(distort(test.images, torch.Generator().manual_seed(0)), test.labels)
    return Characters(training, test, len(files), int(used.sum()))


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of ``images`` (N, 1, 24, 24), ink 1 on 0, moved, scaled, paler and in noise; of mean 0 and
    deviation 1 each, as CharNet expects them."""
    number = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(number, *shape, generator=generator)

    # In the coordinates of affine_grid an image is 2 wide.
    moves = torch.zeros(number, 2, 3)
    moves[:, 0, 0] = moves[:, 1, 1] = 1 / uniform(*SCALES)
    moves[:, :, 2] = uniform(-SHIFT, SHIFT, 2) * 2 / SIZE
    moved = grid_sample(images, affine_grid(moves, list(images.shape), False), align_corners=False)
    noise = torch.randn(images.shape, generator=generator)
    noisy = uniform(*CONTRASTS, 1, 1, 1) * moved + NOISE * noise
    deviation, mean = torch.std_mean(noisy, dim=(1, 2, 3), keepdim=True)
    return (noisy - mean) / deviation


def readable(images: np.ndarray) -> np.ndarray:
    """Which characters of which fonts to keep, bool (fonts, 62), of images (fonts, 62, 24, 24), uint8.

    A character that its font lacks is an image without ink. The head of this file says what is left out.
    """
    pixels = images.reshape(*images.shape[:2], -1).astype(np.float32)
    norms = np.linalg.norm(pixels, axis=2, keepdims=True)
    directions = pixels / np.maximum(norms, 1)
    other_class = LABELS[:, None] != LABELS
    alike = directions @ directions.transpose(0, 2, 1) > ALIKE
    kept = (norms[..., 0] > 0) & ~(alike & other_class).any(axis=2)

    means = (directions * kept[..., None]).sum(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    nearest = (directions @ means.T).argmax(axis=2)
    right = ((LABELS[nearest] == LABELS) & kept).sum(axis=1)
    count = kept.sum(axis=1)
    return kept & ((count >= FEWEST) & (right >= LEGIBLE * count))[:, None]


def _font_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".ttf", ".otf"))


def _packaged() -> list[Path]:
    try:
        return [file for package in PACKAGES for file in _font_files(package.at_hand())]
    except Unavailable as reason:
        names = " and ".join(package.name for package in PACKAGES)
        raise Unavailable(
            f"the fonts are not at hand: {reason}\n"
            f"Either install the Debian packages {names}, or give a folder of fonts with --data DIR"
        ) from None


def _draw(file: Path) -> tuple[str, np.ndarray]:
    """The font's family, and its 62 characters, uint8 (62, 24, 24), black where it has none."""
    from PIL import ImageFont

    font = ImageFont.truetype(file, POINTS)
    name = (font.getname()[0] or file.stem).split()
    # What a font draws for characters that it lacks; no font has this one.
    lacking = _image_of(font, "\uffff")
    images = [_image_of(font, character) for character in CHARACTERS]
    blank = np.zeros_like(lacking)
    return name[0] if name else file.stem, np.stack(
        [blank if np.array_equal(image, lacking) else image for image in images]
    )


def _image_of(font: FreeTypeFont, character: str) -> np.ndarray:
    """The character in the middle of an image of its own, scaled so that its ink fills INK pixels."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (4 * POINTS, 4 * POINTS))
    ImageDraw.Draw(canvas).text((POINTS, POINTS), character, fill=255, font=font)
    image = Image.new("L", (SIZE, SIZE))
    box = canvas.getbbox()
    if box is not None:
        ink = canvas.crop(box)
        width, height = (max(1, round(INK * side / max(ink.size))) for side in ink.size)
        ink = ink.resize((width, height), Image.Resampling.LANCZOS)
        image.paste(ink, ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(image)


def _for_test(families: Sequence[str], used: np.ndarray) -> np.ndarray:
    """Which fonts are for the test: whole families, about TEST_SHARE of those with a font in use."""
    names = sorted({family for family, kept in zip(families, used, strict=True) if kept})
    chosen = np.random.default_rng(0).permutation(names)[: max(1, round(TEST_SHARE * len(names)))]
    return np.isin(families, chosen)


def _split(images: np.ndarray, kept: np.ndarray) -> Split:
    pixels = torch.from_numpy(images[kept].astype(np.float32) / 255).unsqueeze(1)
    labels = np.broadcast_to(LABELS, kept.shape)[kept]
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))
