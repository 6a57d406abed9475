"""`anyscene COMMAND`: the parser of all commands, and what becomes of their errors."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from anyscene import __version__
from anyscene.commands.benchmark import add_benchmark
from anyscene.commands.cluster import add_status, add_submit
from anyscene.commands.generate import add_evaluate, add_generate
from anyscene.commands.metrics import add_metrics
from anyscene.commands.prepare import add_prepare
from anyscene.commands.study import add_study
from anyscene.commands.train import (
    add_convert,
    add_demo,
    add_export,
    add_report,
    add_track,
    add_train,
)
from anyscene.errors import AnySceneError, DamageError, RunFailedError


class OneLineParser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all other ones are told."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit code: 0, 1 (damage, a failed run), 2 (a mistake)."""
    options = parse(arguments)
    try:
        return options.command(options)
    except AnySceneError as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 2
    except (DamageError, RunFailedError) as error:
        print(f"anyscene: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:  # not about a user's file or folder
            raise
        print(f"anyscene: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("anyscene: interrupted", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; key=value may come after options, which argparse alone refuses."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and hasattr(options, "overrides") and all(word[0] != "-" for word in rest):
        options.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = OneLineParser(prog="anyscene", description="Scene customization.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_prepare(commands)
    add_train(commands)
    add_submit(commands)
    add_status(commands)
    add_export(commands)
    add_convert(commands)
    add_generate(commands)
    add_evaluate(commands)
    add_metrics(commands)
    add_report(commands)
    add_track(commands)
    add_demo(commands)
    add_study(commands)
    add_benchmark(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
