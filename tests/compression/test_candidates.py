"""Which of a layer's candidates are worth the time to measure their loss."""

from torch import nn

from cnnkern.compression.candidates import Candidate, drop_dominated


def candidate(method: str, seconds: float, error: float) -> Candidate:
    return Candidate(method, 16, "", seconds, layer=nn.Identity(), error=error)


def test_what_is_left_goes_from_the_most_exact_to_the_fastest():
    exact, fast, fastest = candidate("cp", 1.0, 0.1), candidate("cp", 0.8, 0.2), candidate("cp", 0.4, 0.4)
    slower, hardly = candidate("tucker2", 0.9, 0.3), candidate("spatial_svd", 0.78, 0.25)
    drop_dominated([fastest, slower, exact, hardly, fast])
    assert [each.verdict for each in (exact, fast, fastest)] == ["", "", ""]
    assert slower.verdict == "slower and less exact than cp, rank 16"
    assert hardly.verdict == "hardly faster and less exact than cp, rank 16"
    assert slower.layer is hardly.layer is None


def test_int8_stays_for_what_it_may_save_beside_others():
    exact, int8, less = candidate("cp", 1.0, 0.1), candidate("int8", 1.1, 0.2), candidate("cp", 1.05, 0.3)
    drop_dominated([exact, int8, less])
    assert int8.layer is not None
    assert not int8.verdict
    assert less.verdict == "slower and less exact than cp, rank 16"
