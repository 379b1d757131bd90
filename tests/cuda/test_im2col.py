"""The CUDA kernel of im2col copies what torch's unfold copies."""

import pytest
import torch

from cnnkern import reference
from tests.cuda.cases import CASES, LAYOUTS
from tests.cuda.platforms import Platform
from tests.ops.cases import Case, laid_out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [*LAYOUTS, "sliced"])
def test_gives_the_patches(on: Platform, layout: str, dtype: torch.dtype) -> None:
    for case in CASES:
        x = laid_out(torch.randn(case.x, dtype=dtype), layout)
        steps = [list(case.stride), list(case.padding), list(case.dilation)]
        y = on.operations.im2col(on.take(x), list(case.kernel), *steps)
        expected = reference.im2col(
            x.float(), case.kernel, stride=case.stride, padding=case.padding, dilation=case.dilation
        )
        assert torch.equal(y.cpu().float(), expected), str(case)


def test_a_dtype_without_a_kernel_is_refused(on: Platform) -> None:
    x = torch.randn(Case((1, 2, 3, 4), 1, (1, 1)).x, dtype=torch.float64, device=on.device)
    with pytest.raises(ValueError, match="x: expected float32, float16 or bfloat16"):
        on.operations.im2col(x, [2, 2], [1, 1], [0, 0], [1, 1])
