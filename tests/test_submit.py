"""Job scripts: what a user asks for, in SLURM's words; no Slurm needed."""

import re
import stat
import subprocess
from pathlib import Path

import pytest
from tiny import tiny_config
from training import refused

from anyscene.cli import build_parser, main
from anyscene.cluster import submit
from anyscene.config_io import load_config


@pytest.fixture
def config_file(tiny_base_folder, demo_shards, tmp_path):
    tiny_config(tiny_base_folder, demo_shards, tmp_path / "runs")
    return tmp_path / "runs" / "tiny.yaml"


def script_of(capsys, *words: str) -> str:
    """What `anyscene submit ... --dry-run` prints: bash that parses."""
    capsys.readouterr()
    assert main(["submit", *words, "--dry-run"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    return script


def options_of(script: str) -> dict[str, str]:
    """The `#SBATCH --NAME=VALUE` lines."""
    return dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))


def test_the_options_of_a_run(config_file, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = (
        "data.batch_size=32 cluster.stop_seconds=90 cluster.sbatch=[--constraint=h100,--exclusive] "
        "--nodes 4 --gpus 8 --partition long --account a1 --qos high --cpus 12 --memory 240G "
        "--time 2-00:00:00"
    )
    words = asked.split()
    script = script_of(capsys, str(config_file), "cluster.setup=[module load cuda]", *words)
    assert options_of(script) == {
        "job-name": "tiny",
        "chdir": str(tmp_path),
        "output": str(tmp_path / "runs/tiny/logs/slurm-%j.out"),
        "open-mode": "append",
        "requeue": "",
        "nodes": "4",
        "ntasks-per-node": "8",
        "gpus-per-node": "8",
        "cpus-per-task": "12",
        "mem": "240G",
        "time": "2-00:00:00",
        "signal": "USR1@90",
        "partition": "long",
        "account": "a1",
        "qos": "high",
        "constraint": "h100",
        "exclusive": "",
    }
    assert "\nmodule load cuda\n" in script
    assert not (tmp_path / "runs/tiny").exists()


def test_cpu_nodes_have_tasks_and_no_gpus(config_file, capsys):
    script = script_of(capsys, str(config_file), "--gpus", "0", "--tasks", "2")
    options = options_of(script)
    assert options["ntasks-per-node"] == "2"
    assert "gpus-per-node" not in options
    assert "partition" not in options


def test_the_requeue_is_the_only_logic_and_comes_last(config_file, capsys):
    """Run by bash: with and without the marker, and with what srun returns."""
    script = script_of(capsys, str(config_file), "--gpus", "0")
    for marker, code in ((True, 0), (True, 137), (False, 0), (False, 2)):
        calls, status = run_script(script, config_file.parent, marker, code)
        assert calls[0].startswith("srun --kill-on-bad-exit=1")
        assert calls[1:] == (["scontrol requeue 77"] if marker else [])
        assert status == code


def run_script(script: str, folder: Path, marker: bool | None, code: int) -> tuple[list[str], int]:
    """Run a job script with stand-ins for srun and scontrol; their calls, and its status.

    marker: whether training leaves one, or takes it away; None: it does not get so far.
    """
    calls, programs = folder / "calls", folder / "programs"
    calls.unlink(missing_ok=True)
    programs.mkdir(exist_ok=True)
    leave = 'mkdir -p "${ANYSCENE_REQUEUE%/*}"; echo 0 >"$ANYSCENE_REQUEUE"'
    does = {True: leave, False: 'rm -f "$ANYSCENE_REQUEUE"', None: "true"}[marker]
    for name, body in {"srun": f"{does}\nexit {code}", "scontrol": "true"}.items():
        program = programs / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >>{calls}\n{body}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "5"}
    environment = {"PATH": f"{programs}:/usr/bin:/bin", **slurm}
    done = subprocess.run(["bash"], input=script, text=True, env=environment)
    return calls.read_text().splitlines(), done.returncode


def test_starts_that_training_never_sees_are_not_followed_without_end(config_file, capsys):
    """Its Python is gone, say, since the start that was stopped and left the marker."""
    script = script_of(capsys, str(config_file), "--gpus", "0")

    def requeued(marker: bool | None, code: int) -> bool:
        return len(run_script(script, config_file.parent, marker, code)[0]) == 2

    assert not requeued(None, 127)  # nor is the first one
    for _ in range(2):  # it begins to count anew where training begins
        assert requeued(True, 0)
        assert [requeued(None, 127) for _ in range(3)] == [True, True, True]
    assert not requeued(None, 127)


@pytest.mark.parametrize("status", [0, 125])
def test_signals_are_held_where_env_can_do_so(status, config_file, capsys, monkeypatch, tmp_path):
    """Of older coreutils it takes the option for a mistake, and no start would come up."""
    env = tmp_path / "env"
    env.write_text(f"#!/bin/sh\nexit {status}\n")
    env.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    script = script_of(capsys, str(config_file), "--gpus", "0")
    assert ("\n  env --block-signal=USR1,USR2,TERM " in script) == (status == 0)


def test_a_run_a_seed(config_file, capsys):
    script = script_of(capsys, str(config_file), "--gpus", "0", "--seeds", "0-3")
    assert options_of(script)["array"] == "0-3"
    assert options_of(script)["output"].endswith("/slurm-%A_%a.out")
    assert "name=tiny-$SLURM_ARRAY_TASK_ID train.seed=$SLURM_ARRAY_TASK_ID\n" in script


HOSTILE = 'it\'s 100%j "two" \\ $HOME #3'


def test_names_that_shells_and_slurm_take_apart(config_file, capsys, monkeypatch, tmp_path):
    """What a name says is neither words, nor a variable, nor one of Slurm's patterns. Slurm 22.05
    was seen to read such double quotes, `\\` and `%%`, and to refuse the bare words."""
    folder = tmp_path / "two words"
    folder.mkdir()
    monkeypatch.chdir(folder)
    words = ("--gpus", "0", "--seeds", "0-3", "--account", "two words")
    words += (f"name='{HOSTILE.replace(chr(39), 2 * chr(39))}'",)
    script = script_of(capsys, str(config_file), *words)
    named = '"it\'s 100%j \\"two\\" \\\\ $HOME #3"'
    logs = f"{tmp_path}/runs/{HOSTILE}/logs"
    options = options_of(script)
    assert (options["job-name"], options["account"]) == (named, '"two words"')
    assert options["chdir"] == f'"{folder}"'
    assert (
        options["output"]
        == f'"{tmp_path}/runs/{named[1:-1].replace("%", "%%")}/logs/slurm-%A_%a.out"'
    )
    (call,) = run_script(script, tmp_path, False, 0)[0]
    assert call.endswith(f"/submit-N.yaml name={HOSTILE}-5 train.seed=5")
    assert f"{logs}/submit-N.yaml" in call
    (call, requeue) = run_script(script, tmp_path, True, 0)[0]
    assert requeue == "scontrol requeue 77"
    assert Path(logs).is_dir()


def test_the_log_that_is_told_is_the_one_that_slurm_writes():
    log = submit.pattern(Path("/runs/100%j"), "slurm-%j.out")
    assert log == "/runs/100%%j/slurm-%j.out"
    assert submit.log_file(log, "7") == Path("/runs/100%j/slurm-7.out")
    assert submit.log_file("/a/slurm-%A_%a.out", "7") == Path("/a/slurm-7_%a.out")


def test_a_submission_never_takes_the_file_of_another(config_file, monkeypatch):
    """A waiting job runs it, whichever other ones were removed."""
    monkeypatch.setattr(submit, "submit", lambda *_: "41")
    for steps in (5, 6):
        assert main(["submit", str(config_file), f"train.steps={steps}"]) == 0
    logs = config_file.parent / "tiny/logs"
    (logs / "submit-1.yaml").unlink()
    assert main(["submit", str(config_file), "train.steps=7"]) == 0
    assert load_config(logs / "submit-2.yaml").train.steps == 6
    assert load_config(logs / "submit-1.yaml").train.steps == 7


def test_a_preparation_as_an_array(config_file, capsys):
    words = "coco --images 'my photos' --instances i.json --out data/coco"
    script = script_of(capsys, str(config_file), "--prepare", words, "--parts", "16")
    assert options_of(script)["array"] == "0-15"
    assert "gpus-per-node" not in options_of(script)
    assert "block-signal" not in script  # an element ends at once, and is done by the next start
    ending = f"prepare {words} --shard-index $SLURM_ARRAY_TASK_ID --num-shards 16\n"
    assert ending in script
    for code, requeued in ((143, True), (138, True), (137, False), (1, False), (0, False)):
        calls, _ = run_script(script, config_file.parent, False, code)
        assert (len(calls) == 2) == requeued


def test_an_array_has_a_folder_for_its_logs(config_file, capsys, monkeypatch, tmp_path):
    """Without it Slurm ends each element at once and says so nowhere. Of several clusters `sbatch`
    names the one that took the job."""
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\ncat >/dev/null\necho '41;south'\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["submit", str(config_file), "--prepare", "coco --out a"]) == 0
    logs = config_file.parent / "tiny/logs"
    assert capsys.readouterr().out == f"job: 41\nlog: {logs}/slurm-41_%a.out\n"
    assert logs.is_dir()


def test_a_benchmark_as_an_array(config_file, capsys):
    words = "bench --method paste --model m --out runs/paste"
    script = script_of(capsys, str(config_file), "--benchmark", words)
    assert options_of(script)["gpus-per-node"] == "1"
    command = re.search(r"anyscene\.cli (benchmark run .*)", script)
    assert command
    arguments = command[1].replace("$SLURM_ARRAY_TASK_ID", "0").split()
    options = build_parser().parse_args(arguments)  # what the elements call is there
    assert (options.method, options.shard_index, options.num_shards) == ("paste", 0, 1)


def test_a_container_and_its_python(config_file, capsys):
    words = ("cluster.container=apptainer exec --nv a.sif", "cluster.python=python3")
    script = script_of(capsys, str(config_file), *words)
    assert "apptainer exec --nv a.sif python3 -m anyscene.cli train" in script


def test_a_requeued_job_keeps_the_configuration_that_was_submitted(
    config_file, capsys, monkeypatch
):
    scripts = []
    monkeypatch.setattr(submit, "submit", lambda script, _: scripts.append(script) or "41")
    assert main(["submit", str(config_file), "train.steps=5"]) == 0
    log = config_file.parent / "tiny/logs/slurm-41.out"
    assert capsys.readouterr().out == f"job: 41\nlog: {log}\n"
    frozen = load_config(config_file.parent / "tiny/logs/submit-1.yaml")
    assert (frozen.train.steps, frozen.cluster.gpus) == (5, 1)
    assert "/tiny/logs/submit-1.yaml\n" in scripts[0]
    assert main(["submit", str(config_file)]) == 0
    assert "/tiny/logs/submit-2.yaml\n" in scripts[1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--nodes", "two"], ["train.nodes", "two"]),
        (["--gpus", "8", "--tasks", "9", "data.batch_size=9"], ["cluster.gpus=8", "=9"]),
        (["--nodes", "3"], ["data.batch_size=2 is not divisible"]),
        (["--prepare", "coco --out 'my data"], ["--prepare", "no command line: No closing"]),
        (["cluster.container=run 'a"], ["cluster.container", "no command line"]),
        (["--prepare", "coco --out a", "--parts", "0"], ["--parts 0 must be at least 1"]),
        (["--parts", "4"], ["--parts 4 is of --prepare and --benchmark"]),
        (["--prepare", "coco", "--seeds", "0-3"], ["--seeds 0-3 is of trainings"]),
        (["--prepare", ""], ["--prepare '' is empty"]),
        (["--benchmark", " "], ["--benchmark ' ' is empty"]),
        (["--seeds", ""], ["--seeds '' is empty"]),
        (['name="a\\nb"'], ["cannot be in a job script", "one line"]),
    ],
)
def test_mistakes_are_told_before_slurm_is_asked(words, parts, config_file, capsys):
    line = refused(["submit", str(config_file), *words], capsys)
    for part in parts:
        assert part in line


def test_without_slurm_it_says_where_to_submit(config_file, capsys, monkeypatch):
    monkeypatch.setattr(submit.shutil, "which", lambda _: None)
    line = refused(["submit", str(config_file)], capsys)
    assert "no sbatch here" in line
    assert not list(config_file.parent.rglob("submit-*"))  # no job reads its configuration


def test_what_sbatch_says_is_told_in_one_line(config_file, capsys, monkeypatch, tmp_path):
    program = tmp_path / "sbatch"
    program.write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: no' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    line = refused(["submit", str(config_file), "--partition", "no"], capsys)
    assert "sbatch refuses the job: invalid partition specified: no" in line
    assert not list(config_file.parent.rglob("submit-*"))
