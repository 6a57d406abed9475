"""`anyscene submit` and `status`: runs on a SLURM cluster."""

import argparse
from pathlib import Path

# Option, the key that it sets, and what it is. They come after key=value overrides, and count.
SHORT = {
    "--nodes": ("train.nodes", "nodes"),
    "--gpus": ("cluster.gpus", "GPUs a node, each with a task; 0: CPU nodes"),
    "--tasks": ("train.devices", "tasks a node; default: the GPUs"),
    "--partition": ("cluster.partition", "SLURM's partition"),
    "--account": ("cluster.account", "account to charge"),
    "--qos": ("cluster.qos", "quality of service"),
    "--cpus": ("cluster.cpus", "CPU cores a task"),
    "--memory": ("cluster.memory", "memory a node, such as 240G"),
    "--time": ("cluster.time", "time limit of one start"),
}


def add_submit(commands: argparse._SubParsersAction) -> None:
    submit = commands.add_parser("submit", help="hand a run to SLURM, which keeps it going")
    submit.add_argument("config", type=Path)
    submit.add_argument("overrides", nargs="*", metavar="key=value")
    for option, (key, text) in SHORT.items():
        submit.add_argument(option, help=f"{text} ({key})")
    submit.add_argument("--seeds", metavar="0-3", help="an array with a run a seed")
    kinds = submit.add_mutually_exclusive_group()
    kinds.add_argument("--prepare", metavar="WORDS", help="what follows `anyscene prepare`")
    kinds.add_argument("--benchmark", metavar="WORDS", help="what follows `... benchmark run`")
    submit.add_argument("--parts", type=int, default=1, help="elements of such an array")
    submit.add_argument("--dry-run", action="store_true", help="only print the job script")
    submit.set_defaults(command=_submit)


def add_status(commands: argparse._SubParsersAction) -> None:
    status = commands.add_parser("status", help="how a run is: state, restarts, step, speed, log")
    status.add_argument("run", type=Path, metavar="RUN", help="run folder")
    status.add_argument("--lines", type=int, default=5, help="of the log")
    status.set_defaults(command=_status)


def _overrides(options: argparse.Namespace) -> list[str]:
    given = {option: getattr(options, option[2:]) for option in SHORT}
    short = [f"{SHORT[option][0]}={value}" for option, value in given.items() if value is not None]
    if given["--gpus"] not in (None, "0") and given["--tasks"] is None:
        short.append(f"train.devices={given['--gpus']}")
    return [*options.overrides, *short]


def _check_kind(options: argparse.Namespace) -> None:
    """Raises `InputError` for options of another kind of job, which would do nothing, and for empty
    ones, as of a shell's variable without a value: they would start a training."""
    from anyscene.errors import InputError

    for name in ("prepare", "benchmark", "seeds"):
        value = getattr(options, name)
        if value is not None and not value.strip():
            raise InputError(f"--{name} {value!r} is empty: give a value, or leave it out")
    is_array = options.prepare is not None or options.benchmark is not None
    if is_array and options.seeds:
        raise InputError(f"--seeds {options.seeds} is of trainings; leave it out")
    if not is_array and options.parts != 1:
        raise InputError(f"--parts {options.parts} is of --prepare and --benchmark; leave it out")


def _submit(options: argparse.Namespace) -> int:
    from anyscene.cluster import submit
    from anyscene.config_io import load_config, read_config
    from anyscene.elastic import fit_accumulation
    from anyscene.errors import InputError

    overrides = _overrides(options)
    _check_kind(options)
    file = None
    if options.prepare or options.benchmark:
        config = read_config(options.config, overrides)
        if options.prepare:
            name, words, gpus = "prepare", f"prepare {options.prepare}", 0
        else:
            words = f"benchmark run {options.benchmark}"
            name, gpus = "benchmark", min(1, submit.gpus_of(config))
        job = submit.array_job(config, name, words, options.parts, gpus)
    else:
        config = load_config(options.config, overrides, fit_accumulation)
        folder = submit.log_folder(config)
        file = folder / "submit-N.yaml" if options.dry_run else submit.freeze(config)
        job = submit.train_job(config, file, options.seeds or "")
    try:
        script = submit.render(job, config.cluster)
        if options.dry_run:
            print(script, end="")
            return 0
        number = submit.submit(script, submit.log_folder(config))
    except InputError:
        if file is not None:
            file.unlink(missing_ok=True)  # no job reads it
        raise
    print(f"job: {number}\nlog: {submit.log_file(job.log, number)}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from anyscene.cluster.status import describe

    print(describe(options.run, options.lines))
    return 0
