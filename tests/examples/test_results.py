"""The figures that examples/results/README.md shows are those of the run beside it."""

import json
import re
from pathlib import Path

import pytest

import examples
from examples.measuring import WHOLE
from examples.stability import VARIANTS

RESULTS = Path(examples.__file__).parent / "results"
ROW = re.compile(
    r"^\| (?P<name>[a-z][^|]*) \| (?P<stretch>[\d,]+) \| (?P<before>[\d.]+) \| (?P<after>[\d., ]+) \|$"
)


def test_the_figures_are_those_of_the_run():
    document = json.loads((RESULTS / "stability.json").read_text(encoding="utf-8"))
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    rows = {row["name"]: row for line in text.splitlines() if (row := ROW.match(line))}
    outcomes = {outcome["name"]: outcome for outcome in document["outcomes"]}
    assert rows.keys() == outcomes.keys() == {variant.name for variant in VARIANTS}
    for name, outcome in outcomes.items():
        assert rows[name]["stretch"] == f"{outcome['stretch']:,.0f}"
        assert rows[name]["before"] == f"{100 * outcome['accuracy_before']:.1f}"
        assert rows[name]["after"] == ", ".join(f"{100 * run['accuracy']:.1f}" for run in outcome["runs"])
    settings = document["settings"]
    for figure in (
        f"R={settings['rank']}",
        f"{settings['steps']} steps",
        f"of {settings['batch_size']} images",
    ):
        assert figure in text
    assert f"{document['accuracy_original']:.2%}".replace("%", " %") in text


def faster(times: dict, batch: str) -> str:
    whole = times[batch][WHOLE]
    return f"{whole['dense']['milliseconds'] / whole['cnnkern']['milliseconds']:.2f}"


def pruning_rows() -> list[str]:
    networks = json.loads((RESULTS / "pruning.json").read_text(encoding="utf-8"))["networks"]
    return [
        f"| {name} | {one['density']:g} | {100 * one['at_once']:.1f} | {100 * one['accuracy']:.1f} "
        f"| {faster(one['times'], '1')} | {faster(one['times'], '64')} |"
        for name, network in networks.items()
        for one in network["outcomes"]
    ]


def perforation_rows() -> list[str]:
    outcomes = json.loads((RESULTS / "perforation.json").read_text(encoding="utf-8"))["outcomes"]
    return [
        f"| {one['pattern']} | {one['rate']:g} | {100 * one['before']:.1f} | {100 * one['accuracy']:.1f} "
        f"| {faster(one['times'], '1')} | {faster(one['times'], '64')} |"
        for one in outcomes
    ]


def test_the_tables_of_pruning_and_perforation_are_those_of_the_runs():
    lines = (RESULTS / "README.md").read_text(encoding="utf-8").splitlines()
    expected = [*pruning_rows(), *perforation_rows()]
    assert [line for line in lines if line in expected] == expected


def quantization_rows() -> list[tuple[str, ...]]:
    """Qualities in percent, times faster at each batch size, share of the bytes, as they are shown."""
    outcomes = json.loads((RESULTS / "quantization.json").read_text(encoding="utf-8"))["outcomes"]
    rows = []
    for one in outcomes:
        digits = 2 if one["measure"] == "accuracy" else 1
        float32, *int8 = (100 * one["quality"][name] for name in ("float32", "PTQ", "QAT"))
        ratios = [
            each["float32"]["milliseconds"] / each["int8"]["milliseconds"] for each in one["times"].values()
        ]
        size = one["bytes"]["int8"] / one["bytes"]["float32"]
        shown = "100" if float32 == 100 else f"{float32:.{digits}f}"
        rows.append((shown, *(f"{x:.{digits}f}" for x in int8), *(f"{x:.2f}" for x in ratios), f"{size:.3f}"))
    return rows


@pytest.mark.parametrize("document", [RESULTS / "README.md", RESULTS.parents[1] / "README.md"], ids=str)
def test_the_tables_of_int8_are_those_of_the_run(document: Path):
    text = document.read_text(encoding="utf-8")
    for row in quantization_rows():
        assert f" | {' | '.join(row)} |" in text


def test_the_readme_repeats_them():
    document = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    pruned = json.loads((RESULTS / "pruning.json").read_text(encoding="utf-8"))["networks"]["fashion_mnist"]
    perforated = json.loads((RESULTS / "perforation.json").read_text(encoding="utf-8"))["outcomes"]
    for outcomes in (pruned["outcomes"], [one for one in perforated if one["pattern"] == "impact"]):
        accuracies = ", ".join(f"{100 * one['accuracy']:.1f}" for one in outcomes)
        ratios = ", ".join(f"{float(faster(one['times'], '64')):.1f}" for one in outcomes)
        assert f"| {accuracies} % | {ratios} |" in document
