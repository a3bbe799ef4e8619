"""pods_vis: figures of what a detector learns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser
from cvpods.utils.errors import ConfigError

# Largest number of rows of a figure.
MAX_OBJECTS = 100


def _check(args: argparse.Namespace) -> None:
    """Check the flags of `pods_vis alignment`.

    Raises:
        ConfigError: a number is out of range, or a flag is missing.
    """
    if not 1 <= args.count <= MAX_OBJECTS:
        raise ConfigError(f"--count must be between 1 and {MAX_OBJECTS}; got {args.count}.")
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score must be in 0 ... 1; got {args.score}.")
    if args.beside_weights and not args.beside:
        raise ConfigError("--beside-weights needs --beside, the experiment that they belong to.")


def _write_alignment(args: argparse.Namespace) -> None:
    _check(args)
    config, _ = load_config(args)
    from cvpods_ext.analysis.alignment_figure import Choice, Shown, write_alignment

    experiments = [Shown(Path(args.dir or "."), args.weights, "--weights", args.opts)]
    if args.beside:
        experiments.append(Shown(Path(args.beside), args.beside_weights, "--beside-weights"))
    write_alignment(
        args.input,
        experiments,
        Choice(args.truth, args.count, args.score),
        config,
        output=args.output,
        device="cpu" if args.num_gpus == 0 else None,
    )


def _alignment_main(argv: Sequence[str]) -> None:
    parser = make_parser(
        "Draw classification, regression quality and training weight of objects as heat maps, to "
        "show how well they agree. The experiment must be of AutoAssign or FeatureAlign.",
        launches=False,
    )
    parser.prog = "pods_vis alignment"
    parser.add_argument("--input", required=True, help="the image")
    parser.add_argument("--weights", help="checkpoint (default: the newest in OUTPUT_DIR)")
    parser.add_argument(
        "--beside", metavar="DIR", help="another experiment beside it, without the overrides"
    )
    parser.add_argument("--beside-weights", help="its checkpoint (default: its newest)")
    parser.add_argument("--truth", action="store_true", help="annotated objects, not detected ones")
    parser.add_argument("--count", type=int, default=4, help="number of objects (%(default)s)")
    parser.add_argument("--score", type=float, default=0.3, help="least score (%(default)s)")
    parser.add_argument("--output", help="the picture (default: OUTPUT_DIR/alignment.png)")
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        _write_alignment(args)


FIGURES: dict[str, Callable[[Sequence[str]], None]] = {"alignment": _alignment_main}


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_vis: draw the figure that the first word names."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in FIGURES:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        usage = f"usage: pods_vis {{{','.join(FIGURES)}}} ... (each with --help)"
        print(usage, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    FIGURES[argv[0]](argv[1:])


if __name__ == "__main__":
    main()
