"""`anyscene train`, `export`, `report` and `demo`: a run and what is made of it."""

import argparse
import sys
from pathlib import Path


def add_train(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train as a config file says, or go on training")
    train.add_argument("config", type=Path)
    train.add_argument("overrides", nargs="*", metavar="key=value")
    train.add_argument("--dry-run", action="store_true", help="only count operations and memory")
    train.set_defaults(command=_train)


def add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser("export", help="write a run's model as a diffusers folder")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--checkpoint", type=Path, help="default: the newest undamaged one")
    export.add_argument("--no-base", action="store_true", help="the FIM alone")
    export.add_argument("--half", action="store_true", help="store weights as float16")
    export.add_argument("--overwrite", action="store_true", help="replace an export in OUT")
    export.set_defaults(command=_export)


def add_convert(commands: argparse._SubParsersAction) -> None:
    convert = commands.add_parser("convert", help="make one file of a checkpoint in shares (FSDP2)")
    convert.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of shares")
    convert.add_argument("--out", type=Path, required=True, help="the file, such as one.ckpt")
    convert.set_defaults(command=_convert)


def add_report(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="write a run's report.html")
    report.add_argument("run", type=Path, metavar="RUN", help="run folder")
    report.set_defaults(command=_report)


def add_track(commands: argparse._SubParsersAction) -> None:
    track = commands.add_parser("track", help="tell W&B what it does not have of a run yet")
    track.add_argument("run", type=Path, metavar="RUN", help="run folder")
    track.set_defaults(command=_track)


def add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="the whole chain on embedded data, in minutes")
    demo.add_argument("--config", type=Path, default=Path("configs/train/demo.yaml"))
    demo.add_argument("--data", type=Path, default=Path("data/demo"))
    demo.add_argument("overrides", nargs="*", metavar="key=value")
    demo.set_defaults(command=_demo)


def _train(options: argparse.Namespace) -> int:
    from anyscene.preemption import RunStopped, survivable
    from anyscene.ranks import is_first_process

    if options.dry_run:
        return _count(options)
    try:
        with survivable():
            run = _train_held(options)
    except RunStopped as stop:
        if is_first_process():
            print(f"anyscene: {stop}", file=sys.stderr)
        return 0
    if is_first_process():
        print(f"run folder: {run}")
    return 0


def _count(options: argparse.Namespace) -> int:
    """What a step of the run costs, without training."""
    from anyscene.config_io import load_config
    from anyscene.elastic import fit_accumulation

    config = load_config(options.config, options.overrides, fit_accumulation, to_run=False)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.cost import count_step, plan_lines

    cost = count_step(config)
    print("\n".join([*cost.lines(), *plan_lines(config, cost)]))
    return 0


def _train_held(options: argparse.Namespace) -> Path:
    """Train while the signals to stop are held back."""
    from anyscene.config_io import load_config
    from anyscene.elastic import fit_accumulation

    config = load_config(options.config, options.overrides, fit_accumulation)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.train import train

    return train(config)


def _export(options: argparse.Namespace) -> int:
    from anyscene.export_record import check_export

    check_export(options.run, options.out, options.checkpoint, overwrite=options.overwrite)
    from anyscene.quiet import quiet_libraries

    quiet_libraries()
    from anyscene.export import export

    out = export(
        options.run,
        options.out,
        checkpoint=options.checkpoint,
        with_base=not options.no_base,
        half=options.half,
        overwrite=options.overwrite,
    )
    print(f"export: {out}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from anyscene.convert_checkpoint import convert_checkpoint

    convert_checkpoint(options.checkpoint, options.out)
    print(f"checkpoint: {options.out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from anyscene.report import write_report

    print(f"report: {write_report(options.run)}")
    return 0


def _track(options: argparse.Namespace) -> int:
    import subprocess

    from anyscene.errors import InputError

    if not (options.run / "run.json").is_file():
        raise InputError(f"{options.run} is no run folder: it has no run.json")
    command = [sys.executable, "-m", "anyscene.tracking.follow", str(options.run)]
    return 1 if subprocess.run(command, input=b"0", check=False).returncode else 0


def _demo(options: argparse.Namespace) -> int:
    from anyscene.demo import run_demo

    run_demo(options.config, options.data, options.overrides)
    return 0
