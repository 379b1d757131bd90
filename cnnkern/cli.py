"""The command line: `python -m cnnkern info | profile | bench | compress`, also installed as `cnnkern`.

What is asked for goes to stdout, and whatever else is said, the model's own code included, to stderr.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import torch
from rich.console import Console

import cnnkern
from cnnkern.cli_inputs import CALIBRATION, calibration_and_loss, model_and_example
from cnnkern.compression.contest import contest
from cnnkern.compression.files import written_whole
from cnnkern.compression.machine import gather, table_of
from cnnkern.compression.methods import DEFAULT_METHODS, METHODS

# exit statuses; 2 is argparse's, for wrong usage, and 130 what shells have for Ctrl-C
ERROR, NOTHING_GAINED, INTERRUPTED = 1, 3, 130

EXAMPLES = """\
examples:
  python -m cnnkern info --json
  python -m cnnkern profile torchvision.models:resnet18 --input-shape 1,3,224,224
  python -m cnnkern bench torchvision.models:resnet18 --input-shape 1,3,224,224 --methods cp int8
  python -m cnnkern compress mine.nets:net --weights net.safetensors --input-shape 16,3,64,64 \\
      --data held_out.safetensors --target-speedup 2 --output faster.safetensors --report report

A compressed file is read with cnnkern.load(path, model), or given to --weights again.
Exit status: 0 done, 1 an error, 2 wrong usage, 3 compress found nothing to gain, 130 interrupted.
The benchmarks of the package itself are in the source tree: python -m bench."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the process's exit status; errors go to stderr as one line."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("cnnkern: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        print(f"cnnkern: error: {' '.join(lines[:4])}", file=sys.stderr)
        return ERROR


def parser() -> argparse.ArgumentParser:
    """The command line, for those who run it and those who check what documents show."""
    parser = argparse.ArgumentParser(
        prog="cnnkern",
        description=cnnkern.__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cnnkern {cnnkern.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    info = commands.add_parser("info", help="what was built, what this machine has, and how fast it can be")
    info.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    info.set_defaults(run=_info)
    _add_profile(commands)
    _add_bench(commands)
    _add_compress(commands)
    return parser


def _add_profile(commands: argparse._SubParsersAction) -> None:
    text = "time, FLOPs and bytes of each layer of a model"
    profile = commands.add_parser("profile", help=text, description=text)
    _add_model(profile)
    profile.add_argument("--report", type=Path, metavar="DIR", help="for profile.json and profile.svg")
    profile.set_defaults(run=_profile)


def _add_bench(commands: argparse._SubParsersAction) -> None:
    text = "each convolution of a model beside what could take its place: times alone, nothing is fitted"
    bench = commands.add_parser("bench", help=text, description=text)
    _add_model(bench)
    _add_methods(bench)
    bench.add_argument("--report", type=Path, metavar="DIR", help="for bench.json")
    bench.set_defaults(run=_bench)


def _add_compress(commands: argparse._SubParsersAction) -> None:
    text = "a faster model from a trained one, by measured time and measured loss"
    compress = commands.add_parser("compress", help=text, description=text)
    _add_model(compress)
    asked = compress.add_mutually_exclusive_group(required=True)
    asked.add_argument("--target-speedup", type=float, metavar="X", help="times as fast as it is now")
    asked.add_argument("--max-loss-increase", type=float, metavar="X", help="what it may lose, at most")
    compress.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="tensors 'inputs' and, for a classifier, 'labels' (.safetensors, or .pt with tensors alone): "
        f"the first {CALIBRATION} are what layers are fitted to, the others say what is lost: cross-entropy "
        "with labels, else how far outputs are from the original's; random inputs without it",
    )
    _add_methods(compress)
    compress.add_argument(
        "--output", type=Path, metavar="FILE", default=Path("compressed.safetensors"),
        help="where the compressed model goes; default: %(default)s",
    )  # fmt: skip
    compress.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep finished fits there: what was interrupted goes on"
    )
    compress.add_argument("--seed", type=int, default=0, help="of fits; default: %(default)s")
    compress.add_argument("--report", type=Path, metavar="DIR", help="for report.json and report.html")
    compress.set_defaults(run=_compress)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.formatter_class, command.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    command.add_argument(
        "model", metavar="PACKAGE.MODULE:FACTORY", help="a function without arguments that returns the model"
    )
    command.add_argument(
        "--weights", type=Path, metavar="FILE", help="state dict: .safetensors (of cnnkern.save too), or .pt"
    )
    command.add_argument(
        "--input-shape", type=_shape, required=True, metavar="N,C,H,W", help="of what it is run on"
    )
    command.add_argument("--channels-last", action="store_true", help="memory format of both")
    command.add_argument(
        "--device", type=_device, default="cpu", help="such as cuda, where there is one; default: %(default)s"
    )
    command.add_argument("--threads", type=_positive, metavar="T", help="default: those that torch takes")
    command.add_argument("--seconds", type=float, default=1.0, help="of timing; default: %(default)s")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def _add_methods(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(DEFAULT_METHODS),
        help=f"of {', '.join(METHODS)}; default: all but biclustered",
        metavar="METHOD",
    )  # fmt: skip


def _profile(options: argparse.Namespace) -> None:
    with redirect_stdout(sys.stderr):
        _check_folder(options.report)
        model, example = model_and_example(options)
        profile = cnnkern.profile(model, example, seconds=options.seconds)
    if options.report:
        _write(options.report / "profile.json", profile.to_json())
        profile.save_picture(options.report / "profile.svg")
    print(profile.to_json() if options.json else profile)


def _bench(options: argparse.Namespace) -> None:
    with redirect_stdout(sys.stderr):
        _check_folder(options.report)
        model, example = model_and_example(options)
        found = contest(model, example, options.methods, options.seconds)
    if options.report:
        _write(options.report / "bench.json", found.to_json())
    print(found.to_json() if options.json else found)


def _compress(options: argparse.Namespace) -> int:
    with redirect_stdout(sys.stderr):
        # before the long search, and not after it
        _check_folder(options.report)
        _check_folder(options.output.parent)
        if options.output.is_dir():
            raise ValueError(f"--output: expected a file, got the folder {options.output}")
        model, example = model_and_example(options)
        calibration, evaluate = calibration_and_loss(options, model)
        faster, report = cnnkern.compress(
            model,
            example,
            target_speedup=options.target_speedup,
            max_loss_increase=options.max_loss_increase,
            calibration=calibration,
            evaluate=evaluate,
            methods=options.methods,
            seed=options.seed,
            cache=options.cache,
            seconds=options.seconds,
        )
    if report.changed:
        cnnkern.save(faster, options.output)
    if options.report:
        _write(options.report / "report.json", report.to_json())
        report.save_html(options.report / "report.html")
    if options.json:
        print(report.to_json())
    else:
        print(report)
        print(f"written to {options.output}" if report.changed else "nothing was written")
    return 0 if report.changed else NOTHING_GAINED


def _check_folder(path: Path | None) -> None:
    """OSError unless files can be written to the folder, which is made."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected positive numbers such as 1,3,224,224, got {text!r}")
    return sizes


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, got {text!r}") from error
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"expected a device that torch has here, got {text!r}")
    return device


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return int(text)


def _info(options: argparse.Namespace) -> None:
    facts = gather()
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        Console(highlight=False, markup=False).print(table_of(facts))
