"""What README.md shows, done by a new user to their own network, and taken up again in a fresh process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cnnkern

README = Path(__file__).parents[2] / "README.md"
OWN = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, padding=2)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()).mean(dim=(2, 3)))


def plain():
    torch.manual_seed(1)
    return Net().eval()
"""
LATER = """
import cnnkern, torch
from mine import plain

images, expected = torch.load("results.pt")
with torch.no_grad():
    y = cnnkern.load("faster.safetensors", plain())(images)
torch.testing.assert_close(y, expected, rtol=0, atol=0)
"""


def snippet() -> str:
    """README's example of `compress`, with the user's network in place of its own, and quick."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    (block,) = (each for each in blocks if "cnnkern.compress(" in each)
    code, replaced = re.subn(r"def plain\(\):\n(    .*\n)+", "from mine import plain\n", block)
    assert replaced == 1
    assert "max_loss_increase=0.01" in code
    quick = code.replace("max_loss_increase=0.01", "max_loss_increase=1.0, seconds=0.01")
    quick = quick.replace("cnnkern.profile(net, images)", "cnnkern.profile(net, images, seconds=0.01)")
    return f"{quick}\nwith torch.no_grad():\n    torch.save((images, faster(images)), 'results.pt')\n"


def test_their_network_comes_back_in_a_fresh_process(tmp_path: Path):
    for name, code in (("mine.py", OWN), ("now.py", snippet()), ("later.py", LATER)):
        (tmp_path / name).write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(cnnkern.__file__).parents[1])}
    for name in ("now.py", "later.py"):
        done = subprocess.run(
            [sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "faster.safetensors").exists()
