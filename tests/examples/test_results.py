"""The figures that examples/results/README.md shows are those of the run beside it."""

import json
import re
from pathlib import Path

import examples
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
