"""What README.md and CONTRIBUTING.md show is true: code runs, commands exist, links and paths lead on."""

import json
import re
import shlex
from pathlib import Path

import pytest

from cnnkern import cli

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def blocks(language: str) -> list:
    """The code blocks of one language in the documents, each with an id that says where it starts."""
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match.group(1) == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(pytest.param(match.group(2), id=f"{document}:{line}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # some of it writes files
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("block", blocks("sh"))
def test_commands_exist(block: str):
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            check_command(words)


def check_command(words: list[str]) -> None:
    match words:
        case ["make", target, *settings]:
            assert target in TARGETS
            assert all(re.match(r"[A-Z]+=", setting) for setting in settings)
        case ["pip", "install", "."]:
            pass  # the build itself is what made this test run
        case ["pip", "install", *packages]:
            assert all(re.fullmatch(r"[\w-]+==[\d.]+", package) for package in packages)
        case ["python", "-m", "cnnkern", *arguments]:
            cli.parser().parse_args(arguments)
        case _:
            pytest.fail(f"no check for the command {shlex.join(words)}")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str):
    text = re.sub(r"<!--.*?-->", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build"}
    paths = [p for p in re.findall(r"`([\w./-]+/[\w./-]*)`", text) if p.split("/")[0] in folders]
    trees = re.findall(r"^([\w./-]+/) {2,}", text, re.MULTILINE)
    assert [p for p in {*links, *paths, *trees} if not (ROOT / p).exists()] == []


RESULT = re.compile(
    r"^\| \[.*\]\((?P<file>bench/results/.*\.json)\) \| (?P<threads>\d+) \| (?P<batch>\d+) "
    r"\| (?P<dense>[\d.]+) \| (?P<cp>[\d.]+) \| (?P<over_dense>[\d.]+) \|$",
    re.MULTILINE,
)
COLUMNS = {"dense": ("dense", "best"), "cp": ("cp", "best"), "over_dense": ("cp", "over_dense")}


def test_the_results_are_those_of_their_files():
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Measured")[1].split("\n## ")[0]
    rows = list(RESULT.finditer(section))
    assert len(rows) == section.count("\n| ["), "a row of results that this test does not understand"
    for row in rows:
        summary = json.loads((ROOT / row["file"]).read_text(encoding="utf-8"))["summary"]
        measured = {(s["suite"], s["ratio"], s["threads"], s["batch"]): s["geometric_mean"] for s in summary}
        for column, (suite, ratio) in COLUMNS.items():
            value = measured[suite, ratio, int(row["threads"]), int(row["batch"])]
            decimals = len(row[column].partition(".")[2])
            assert row[column] == f"{value:.{decimals}f}", f"{row[0]}: {column} is {value}"


def test_blocks_are_found():
    assert len(blocks("python")) >= 3
    assert len(blocks("sh")) >= 4
    assert {"demo", "test", "bench", "lint", "format", "build"} <= TARGETS
