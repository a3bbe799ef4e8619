"""pods_debug: examine what went wrong in a training run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cvpods.tools.errors import reporting_errors
from cvpods.tools.experiment import load_config
from cvpods.tools.flags import make_parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run pods_debug; the first word is the name of a command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        asked = words[:1] and words[0] in ("-h", "--help")
        print(
            "usage: pods_debug replay FILE [--dir FOLDER] [KEY VALUE ...]\n\n"
            "FILE is a nonfinite_*.pt of a training run's OUTPUT_DIR.",
            file=sys.stdout if asked else sys.stderr,
        )
        sys.exit(0 if asked else 2)
    COMMANDS[words[0]](words[1:])


def _replay_main(argv: Sequence[str]) -> None:
    """Run pods_debug replay."""
    parser = make_parser("Run the step of a nonfinite_*.pt file once more.", launches=False)
    parser.prog = "pods_debug replay"
    parser.usage = "pods_debug replay FILE [--dir FOLDER] [--num-gpus {0,1}] [KEY VALUE ...]"
    args = parser.parse_intermixed_args(argv)
    if not args.opts:
        parser.error("FILE is missing")
    path = Path(args.opts.pop(0))
    with reporting_errors():
        config, build_model = load_config(args)
        from cvpods.tools.replay import replay

        print(replay(config, build_model, path))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"replay": _replay_main}


if __name__ == "__main__":
    main()
