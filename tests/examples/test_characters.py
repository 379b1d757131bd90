"""Characters of fonts: what cannot be read is left out, and no family is on both sides."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from examples import characters as module
from examples import debian
from examples.characters import CHARACTERS, CLASSES, LABELS, SIZE, characters, distort, readable
from examples.files import Unavailable

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def drawn() -> module.Characters:
    return characters(FONTS)


def test_upper_and_lower_case_are_one_class():
    assert (len(CHARACTERS), len(CLASSES)) == (62, 36)
    assert LABELS[CHARACTERS.index("a")] == LABELS[CHARACTERS.index("A")] == CLASSES.index("A")


def test_symbol_fonts_are_left_out(drawn: module.Characters):
    assert drawn.found == len(list(FONTS.glob("*.ttf")))
    # Sizes of brackets, symbols, and extensions have no letters.
    assert 0 < drawn.used < drawn.found - 10
    for split in drawn.training, drawn.test:
        assert split.images.shape == (len(split.labels), 1, SIZE, SIZE)
        assert split.labels.unique().numel() >= 34
    assert drawn.training.images.aminmax() == (0, 1)


def test_families_are_on_one_side(monkeypatch: pytest.MonkeyPatch):
    families = ["A", "B", "A", "C", "B", "D"]
    used = np.array([True, True, True, True, True, False])
    in_test = module._for_test(families, used)
    sides = {family: {bool(side) for side in in_test[[f == family for f in families]]} for family in families}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(True in sides[family] for family in "ABC") == 1


def some_fonts(count: int = 8) -> np.ndarray:
    """Of random patterns that all fonts have in common, with a little of their own."""
    generator = np.random.default_rng(0)
    common, own = generator.integers(0, 128, (62, SIZE, SIZE)), (count, 62, SIZE, SIZE)
    return (common + generator.integers(0, 64, own)).astype(np.uint8)


def test_lacking_and_ambiguous_characters_are_left_out():
    images = some_fonts()
    zero, upper, lower = (CHARACTERS.index(character) for character in "0Oo")
    images[0, zero] = images[0, upper]
    images[0, lower] = images[0, upper]  # the same class, but also like 0
    images[1, lower] = images[1, upper]
    images[2, 5] = 0
    expected = np.ones((len(images), 62), bool)
    expected[0, [zero, upper, lower]] = expected[2, 5] = False
    assert np.array_equal(readable(images), expected)


def test_illegible_and_incomplete_fonts_are_left_out():
    images = some_fonts()
    images[3] = images[3, np.random.default_rng(1).permutation(62)]
    images[4, :20] = 0
    assert readable(images).any(axis=1).tolist() == [True] * 3 + [False] * 2 + [True] * 3


def test_distorted_images_are_normalized_and_repeatable(drawn: module.Characters):
    images = drawn.training.images[:50]
    first, again = (distort(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.mean(dim=(1, 2, 3)).abs().max() < 1e-5
    assert (first.std(dim=(1, 2, 3)) - 1).abs().max() < 1e-5


def test_without_fonts_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Unavailable, match=r"no \.ttf or \.otf file"):
        characters(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(debian.shutil, "which", lambda tool: None)
    monkeypatch.setattr(module, "PACKAGES", (module.FontPackage("fonts-none", "none", 3, 1),))
    with pytest.raises(Unavailable, match=r"(?s)apt-get and dpkg-deb not found.*fonts-none.*--data DIR"):
        characters()
