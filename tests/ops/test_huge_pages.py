"""Outputs that malloc would map anew for every call come in huge pages."""

from pathlib import Path

import pytest
import torch

from cnnkern import ops

SMAPS = Path("/proc/self/smaps")
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def advised(address: int) -> bool:
    """Whether the mapping of ``address`` was asked to come in huge pages."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            begin, end = (int(bound, 16) for bound in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return "hg" in rest
    return False


@pytest.mark.skipif(not SETTING.exists() or not SMAPS.exists(), reason="a kernel without huge pages")
@pytest.mark.parametrize(("side", "huge"), [(2900, True), (2800, False)])
def test_outputs_of_32_mib_are_in_huge_pages(side: int, huge: bool):
    x, weight = torch.randn(1, 1, side, side), torch.full((1, 1, 1, 1), 2.0)
    y = ops.conv2d(x, weight)
    assert advised(y.data_ptr() + y.nbytes // 2) == huge
    assert torch.equal(y, 2 * x)
