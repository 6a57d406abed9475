"""What a run is asked for, as far as it can be known to fail before the model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyscene.benchmark.fine_tune_settings import Kind, parse_settings
from anyscene.benchmark.methods import (
    METHODS,
    NEEDS_CONTROLNET,
    NEEDS_NO_FOREGROUND,
    NEEDS_SUBJECTS,
    NEEDS_TRUTH,
    TAKES_BLEND,
    TAKES_SAM,
)
from anyscene.benchmark.scenes import Benchmark
from anyscene.errors import InputError, nearest
from anyscene.export_record import MODEL_INDEX
from anyscene.generate import MANIFEST_NAME
from anyscene.scene_list import GenerateSettings, check_model


@dataclass(frozen=True)
class Share:
    """Which of a run's images this process makes: index, index + count, ..."""

    index: int = 0
    count: int = 1

    def check(self) -> None:
        """Raises `InputError` for an impossible share."""
        if not 0 <= self.index < self.count:
            raise InputError(
                f"--shard-index {self.index} and --num-shards {self.count}: "
                "the index must be from 0 to num-shards - 1"
            )

    @property
    def manifest_name(self) -> str:
        """The manifest that this process writes."""
        if self.count == 1:
            return MANIFEST_NAME
        return f"manifest-{self.index:05d}-of-{self.count:05d}.jsonl"


WHOLE = Share()


def check_run(
    benchmark: Benchmark,
    name: str,
    model: str,
    settings: GenerateSettings,
    share: Share,
    controlnet: Path | None,
    sam: Path | None,
) -> None:
    """Raises `InputError` for what can be known to fail without loading the model."""
    if name not in METHODS:
        raise InputError(f"--method {name} is none of {', '.join(METHODS)}{nearest(name, METHODS)}")
    check_model(model)
    share.check()
    folder = Path(model)
    if name in NEEDS_SUBJECTS and folder.is_dir() and not (folder / MODEL_INDEX).is_file():
        raise InputError(f"--model {model} is an export without its base: give the base itself")
    check_own_options(name, settings, controlnet, sam)
    if settings.images < 1:
        raise InputError(f"--images {settings.images} must be at least 1")
    if settings.steps is None or settings.steps < 1:
        raise InputError(f"--steps {settings.steps} must be at least 1")
    if sam is not None:
        unreal = [scene["scene_id"] for scene in benchmark.scenes if scene["real"] is None]
        if unreal:
            raise InputError(
                f"--sam finds elements in real scenes, and {unreal[0]} has none; build the "
                "benchmark with --recombined 0"
            )
    if name in NEEDS_TRUTH:
        unknown = [scene["scene_id"] for scene in benchmark.scenes if scene["truth"] is None]
        if unknown:
            raise InputError(
                f"--method {name} needs scenes whose truth is known; {unknown[0]} has none"
            )
    check_foregrounds(benchmark, name)


def check_own_options(
    name: str, settings: GenerateSettings, controlnet: Path | None, sam: Path | None
) -> None:
    """Raises `InputError` for an option of one method that another one is given, or lacks."""
    if name in NEEDS_CONTROLNET and controlnet is None:
        raise InputError(f"--method {name} needs --controlnet, a ControlNet of canny edges")
    own = (
        ("--controlnet", controlnet, NEEDS_CONTROLNET),
        ("--sam", sam, TAKES_SAM),
        ("--blend", settings.blend, TAKES_BLEND),
        ("--blend-k", settings.blend_k, TAKES_BLEND),
    )
    for option, value, methods in own:
        if value is not None and name not in methods:
            raise InputError(f"{option} is for --method {' or '.join(methods)}, not for {name}")


def check_foregrounds(benchmark: Benchmark, name: str) -> None:
    """Raises `InputError` where the scenes have not what the method is shown."""
    if name in NEEDS_SUBJECTS and not benchmark.subjects:
        raise InputError(
            f"--method {name} is fine-tuned on photos of subjects, and {benchmark.folder} has "
            "none: build a subject set with `anyscene benchmark build --subjects FOLDER`"
        )
    empty = [scene["scene_id"] for scene in benchmark.scenes if scene["canvas"] is None]
    if empty and name not in NEEDS_NO_FOREGROUND:
        raise InputError(
            f"--method {name} needs a foreground, and scene {empty[0]} has none: put masks beside "
            "its photos (NAME_mask.png), or build the set with --matting"
        )


def check_fine_tune(name: str, fine_tune: Sequence[str], fine_tunes: Path | None) -> None:
    """Raises `InputError` for settings of a fine-tune that cannot be used."""
    if name in NEEDS_SUBJECTS:
        parse_settings(Kind[name], fine_tune)
        return
    for option, value in (("--fine-tune", fine_tune), ("--fine-tunes", fine_tunes)):
        if value:
            raise InputError(f"{option} is for --method {' and '.join(NEEDS_SUBJECTS)}, not {name}")
