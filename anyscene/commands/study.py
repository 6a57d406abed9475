"""`anyscene study create`, `serve`, `report` and `demo`: the human study."""

import argparse
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from anyscene.errors import InputError

EXTRA = ("choix", "krippendorff", "pandas", "starlette", "statsmodels", "uvicorn")
LAST_PORT = 65_535
DEFAULT_URL = "http://127.0.0.1:8000"


def add_study(commands: argparse._SubParsersAction) -> None:
    study = commands.add_parser("study", help="ask people: a blinded study and its statistics")
    kinds = study.add_subparsers(required=True, metavar="STEP")

    create = kinds.add_parser("create", help="make a study of the images of several methods")
    create.add_argument("--protocol", type=Path, required=True, help="such as configs/study/*.yaml")
    create.add_argument(
        "--manifest",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="manifest.jsonl, once for each method; without NAME= as the manifest calls it",
    )
    create.add_argument("--out", type=Path, required=True, help="folder of the study")
    create.add_argument(
        "--url", type=_url, default=DEFAULT_URL, help="address that private links begin with"
    )
    create.add_argument("--dry-run", action="store_true", help="only say what it would ask for")
    create.add_argument("--overwrite", action="store_true", help="replace a study without answers")
    create.set_defaults(command=_create)

    serve = kinds.add_parser("serve", help="let annotators answer in their browsers")
    serve.add_argument("study", type=Path, metavar="DIR", help="folder of a study")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0: every network of this machine")
    serve.add_argument("--port", type=_port, default=8000)
    serve.add_argument("--url", type=_url, help="address that annotators see, behind a proxy, say")
    serve.set_defaults(command=_serve)

    report = kinds.add_parser("report", help="tables, intervals, tests and plots of the answers")
    report.add_argument("study", type=Path, metavar="DIR", help="folder of a study")
    report.set_defaults(command=_report)

    demo = kinds.add_parser("demo", help="a study of demo images, simulated raters, its report")
    demo.add_argument("--out", type=Path, default=Path("runs/study-demo"))
    demo.set_defaults(command=_demo)


def _create(options: argparse.Namespace) -> int:
    _check_extra()
    from anyscene.study.create import check_out, create_study
    from anyscene.study.plan import describe, plan_study
    from anyscene.study.protocol import read_protocol
    from anyscene.study.sources import read_sources

    protocol = read_protocol(options.protocol)
    check_out(options.out, overwrite=options.overwrite)
    manifests = [_named_file(text) for text in options.manifest]
    plan = plan_study(protocol, *read_sources(manifests, protocol))
    print(describe(plan))
    if options.dry_run:
        return 0
    links = create_study(
        plan, options.out, url=options.url, protocol_folder=options.protocol.parent
    )
    print(f"study: {options.out}; private links, which are nowhere else: {links}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    _check_extra()
    from anyscene.study.server import serve

    serve(options.study, options.host, options.port, options.url)
    return 0


def _report(options: argparse.Namespace) -> int:
    _check_extra()
    from anyscene.study.report import write_study_report

    print(f"report: {write_study_report(options.study)}")
    return 0


def _demo(options: argparse.Namespace) -> int:
    _check_extra()
    from anyscene.study.demo import run_study_demo

    run_study_demo(options.out)
    return 0


def _named_file(text: str) -> tuple[str | None, Path]:
    """`NAME=FILE`, or a file without a name."""
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and "/" not in name else (None, Path(text))


def _url(text: str) -> str:
    """An address that a study can be under: with a host name of its own, for pages name no path.

    As browsers name it, which the server compares with: in small letters, without a default port.
    """
    parts = urlsplit(text.lower())
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.netloc or extra:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be http:// or https:// and a host name, without a path"
        )
    default = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{parts.netloc.removesuffix(default)}"


def _port(text: str) -> int:
    """0: any that is free."""
    if not (text.isascii() and text.isdecimal() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0 to {LAST_PORT}")
    return int(text)


def _check_extra() -> None:
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise InputError(f"a study needs {', '.join(missing)}: pip install 'anyscene[study]'")
