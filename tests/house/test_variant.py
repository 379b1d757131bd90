"""The tests run on the build that is meant: `make test-sanitized` and `make test-simde` name theirs."""

import os
from pathlib import Path

import cnnkern
from cnnkern import _C

FLAGS = {"sanitized": "-fsanitize=address,undefined", "simde": "-DCNNKERN_SIMDE"}


def test_the_build_under_test_is_the_one_that_was_asked_for():
    asked = os.environ.get("CNNKERN_TEST_VARIANT")
    flags = _C.build_info()["cxx_flags"].split()
    assert {variant for variant, flag in FLAGS.items() if flag in flags} == ({asked} if asked else set())
    for extension in (cnnkern._ops, _C):
        assert not asked or Path(extension.__file__).parent == Path.cwd() / "build" / asked / "cnnkern"
    assert _C.available_isas() == _C.compiled_isas() or asked != "simde"
