"""The name of the CPU that times belong to."""

import pytest

from cnnkern.compression import machine

VIRTUAL = {
    "vendor_id": "GenuineIntel",
    "cpu family": "6",
    "model": "143",
    "model name": "Intel(R) Xeon(R) Processor",
}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (VIRTUAL, "Intel(R) Xeon(R) Processor (Sapphire Rapids)"),
        (VIRTUAL | {"model": "1"}, "Intel(R) Xeon(R) Processor"),
        (
            VIRTUAL | {"vendor_id": "AuthenticAMD", "model name": "AMD EPYC 7B13 64-Core Processor"},
            "AMD EPYC 7B13 64-Core Processor",
        ),
        ({"processor": "0"}, machine.platform.machine()),
    ],
)
def test_a_name_that_leaves_the_generation_open_has_it_beside_it(facts, name, monkeypatch, tmp_path):
    lines = [f"{key}\t: {value}\n" for key, value in facts.items()]
    system = tmp_path / "cpuinfo"
    system.write_text("".join([*lines, "\n", "model name\t: that of the next CPU\n"]))
    monkeypatch.setattr(machine, "CPUINFO", system)
    assert machine.cpu_name() == name


def test_a_system_without_the_file_tells_its_architecture(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    assert machine.cpu_name() == machine.platform.machine()
