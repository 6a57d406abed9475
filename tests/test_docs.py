"""What the documentation tells users to type: commands, configurations and files that there are."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from anyscene.cli import parse
from anyscene.config import Config

REPOSITORY = Path(__file__).resolve().parents[1]
TEXTS = [
    path
    for pattern in ("README.md", "docs/*.md", "anyscene/assets/**/README.md", "configs/**/*.yaml")
    for path in sorted(REPOSITORY.glob(pattern))
]
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"^(?:\S*/)?anyscene (?=[a-z])(.*)")
FILE = re.compile(r"^(?:configs|docs|benchmarks|tests|slurm)/[\w/.-]*\w$")
MENTION = re.compile(r"[a-z ]+(--\S+)?")  # a command's name, or that of one of its options

KEY = re.compile(
    r"(?<![\w./-])(?:base|fim|data|loss|train|sample|metrics|log|cluster|debug)\.(?!csv)[a-z]\w*(?![\w(/])"
)


def flat_keys(group: Any, above: str = "") -> Iterator[str]:
    """The dotted keys of a configuration's fields, and those of its groups."""
    for name, kind in get_type_hints(group).items():
        yield above + name
        if is_dataclass(kind):
            yield from flat_keys(kind, f"{above}{name}.")


def pieces(path: Path) -> list[str]:
    """Lines of code blocks and single spans of code; in a configuration, lines of its comments."""
    text = path.read_text().replace("\\\n#", " ").replace("\\\n", " ")
    if path.suffix == ".yaml":
        found = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    else:
        found = [line for block in BLOCK.findall(text) for line in block.splitlines()]
        found += [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    return [re.split(r"\s#", piece.strip())[0] for piece in found]


def commands(path: Path) -> list[str]:
    return [match[1] for piece in pieces(path) if (match := COMMAND.match(piece))]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documented_commands_can_be_typed(path: Path, capsys: pytest.CaptureFixture):
    """Where values are left out, as `...`, at least the names of the options are right."""
    wrong = []
    for command in commands(path):
        try:
            parse([word for word in shlex.split(command) if "..." not in word])
        except SystemExit:
            error = capsys.readouterr().err
            left_out = "..." in command or MENTION.fullmatch(command)
            if not (left_out and ("are required" in error or "expected" in error)):
                wrong.append(f"{command}: {error}")
    assert not wrong


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documented_keys_are_in_the_configuration(path: Path):
    """Such as `train.ema_decay`, alone or with a value."""
    keys = {match[0] for piece in pieces(path) for match in KEY.finditer(piece)}
    known = set(flat_keys(Config))
    assert sorted(keys - known) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_documented_files_are_there(path: Path):
    """Files of the project in commands and spans of code, and what links lead to."""
    words = {word for piece in pieces(path) for word in re.split(r"[\s`,;()]+", piece)}
    named = {REPOSITORY / word for word in words if FILE.fullmatch(word)}
    if path.suffix == ".md":
        links = re.findall(r"\]\(([^)#:\s]+)[^)]*\)", path.read_text())
        named |= {path.parent / link for link in links if not link.startswith("http")}
    assert not [str(file) for file in named if not file.exists()]


def test_the_documentation_was_read():
    found = [command for path in TEXTS for command in commands(path)]
    assert len(found) > 100
    assert {"train", "generate", "export", "prepare", "benchmark", "study"} <= {
        command.split()[0] for command in found
    }


def test_documented_python_makes_a_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The README's example, word for word, in a folder that looks like a clone."""
    for name in ("anyscene", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    values: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), values)
    with Image.open("scene.png") as scene:
        made = torch.from_numpy(np.array(scene)).permute(2, 0, 1).float() / 255
    inside = (values["alpha"] == 1).expand(-1, 3, -1, -1)
    assert (made - values["rgb"])[inside].abs().mean() < 0.12  # its light follows the scene's
    assert made.std() > 0.1
