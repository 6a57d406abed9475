"""What `anyscene generate` is asked for, checked before anything heavy is imported."""

import json
import math
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from anyscene.config import Blend, SampleConfig
from anyscene.errors import InputError, nearest
from anyscene.export_record import EXPORT_NAME, MODEL_INDEX
from anyscene.layout_settings import LayoutControl, parse_layout

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SCENE_ID = re.compile(r"\w[\w.-]*")
SCENE_KEYS = {"scene_id", "prompt", "prompts", "canvas", "elements", "seed"}
DTYPES = ("fp32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
TEXT = "tag:yaml.org,2002:str"
MAX_MICRO_BATCH = 8
DIFFUSERS_STEPS = 50  # of its pipelines; its guidance scale is also `SampleConfig`'s


@dataclass(frozen=True)
class Scene:
    """A composited foreground, or none, and the prompts to generate it with."""

    scene_id: str
    prompts: tuple[str, ...]
    canvas: Path | None = None
    elements: tuple[str, ...] = ()  # FILE@X,Y,HEIGHT
    seed: int = 0  # of the first image; the next has the next seed

    @property
    def guided(self) -> bool:
        """Whether there is a foreground."""
        return self.canvas is not None or bool(self.elements)


@dataclass(frozen=True)
class GenerateSettings:
    """How to generate; None: as the model's export says, otherwise as diffusers does."""

    images: int = 1  # a prompt
    steps: int | None = None
    guidance_scale: float | None = None
    foreground_guidance_scale: float | None = None
    negative_prompt: str = ""
    height: int | None = None  # pixels; None: the model's own size, in the canvas' shape
    width: int | None = None
    blend: Blend | None = None
    blend_k: float | None = None
    layout: tuple[str, ...] = ()  # NAME=VALUE changes, see `layout_settings.parse_layout`
    micro_batch: int | None = None  # None: as many as are asked for, MAX_MICRO_BATCH at most
    matting: str | None = None  # model of rembg or ONNX file for photos; None: alpha is needed
    device: str = "auto"
    dtype: str = "fp32"


def request(options: Namespace) -> tuple[str, list[Scene], GenerateSettings, Path]:
    """Model, scenes, settings and folder of a command line of `anyscene generate`.

    Raises:
        InputError: what is missing, or given twice.
    """
    for name in ("model", "out"):
        if getattr(options, name) is None:
            raise InputError(f"generate needs {'--out DIR' if name == 'out' else 'a MODEL'}")
    single = options.prompt or options.element or options.canvas
    if options.scenes is not None and single:
        raise InputError("--scenes cannot go with --prompt, --canvas or --element: they are in it")
    if options.scenes is not None:
        scenes = read_scene_list(options.scenes, options.seed)
    else:
        name = options.canvas.stem if options.canvas else "elements" if options.element else "text"
        scene_id = re.sub(r"[^\w.-]|^\W+", "_", name)
        elements = tuple(options.element)
        scenes = [Scene(scene_id, tuple(options.prompt), options.canvas, elements, options.seed)]
    names = {field.name for field in fields(GenerateSettings)} - {"blend", "layout"}
    settings = GenerateSettings(
        **{name: getattr(options, name) for name in names},
        blend=None if options.blend is None else Blend[options.blend],
        layout=tuple(options.layout),
    )
    return options.model, scenes, settings, options.out


def sampling(settings: GenerateSettings, record: dict[str, Any] | None) -> SampleConfig:
    """The settings with what is not given taken from `anyscene.json`, or from diffusers."""
    config = SampleConfig(steps=DIFFUSERS_STEPS)
    if record is not None:
        stored = record["config"]["sample"]
        layout = LayoutControl(**stored.get("layout", {}))
        config = SampleConfig(**{**stored, "blend": Blend[stored["blend"]], "layout": layout})
    config = replace(config, layout=parse_layout(settings.layout, config.layout))
    names = ("steps", "guidance_scale", "foreground_guidance_scale", "blend", "blend_k")
    given = {name: getattr(settings, name) for name in names}
    return replace(config, **{name: value for name, value in given.items() if value is not None})


def read_scene_list(path: Path, seed: int = 0) -> list[Scene]:
    """The scenes of a `.jsonl` or `.yaml` list; paths in it are relative to the list's folder.

    Raises:
        InputError: one line that names the entry and what is wrong with it.
    """
    if not path.is_file():
        raise InputError(f"no scene list {path}")
    entries = _read_yaml(path) if path.suffix in (".yaml", ".yml") else _read_json_lines(path)
    scenes = [
        _scene(entry, f"entry {number} of {path}", number, path.parent, seed)
        for number, entry in enumerate(entries, start=1)
    ]
    seen: set[str] = set()
    for scene in scenes:
        if scene.scene_id in seen:
            raise InputError(f"{path} has scene_id {scene.scene_id!r} twice")
        seen.add(scene.scene_id)
    return scenes


def _read_json_lines(path: Path) -> list[Any]:
    """The values of the lines. A person wrote them: unlike in a manifest, a last one that is no
    JSON is a mistake and not torn."""
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"line {number} of {path} is no JSON: {error}") from None
    return entries


def _read_yaml(path: Path) -> list[Any]:
    loader = yaml.SafeLoader(b"")
    try:
        loader = yaml.SafeLoader(path.read_bytes())
        root = loader.get_single_node()
        for entry in root.value if isinstance(root, yaml.SequenceNode) else ():
            _keep_as_written(entry, path)
        entries = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:  # the second of a date, say
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    if not isinstance(entries, list):
        raise InputError(f"{path} must be a list of scenes, each with `- prompt: ...`")
    return entries


def _keep_as_written(entry: yaml.Node, path: Path) -> None:
    """Take a scene_id for the text that it is, and a seed for a decimal number: YAML reads 010 as
    8, 1.10 as 1.1 and no as false. A key that is there twice, of which it drops one, is refused."""
    seen = set()
    for key, value in entry.value if isinstance(entry, yaml.MappingNode) else ():
        if key.value in seen:
            line = key.start_mark.line + 1
            raise InputError(f"line {line} of {path} has {key.value!r} a second time in one scene")
        seen.add(key.value)
        if isinstance(value, yaml.ScalarNode) and key.value == "scene_id":
            value.tag = TEXT
        elif isinstance(value, yaml.ScalarNode) and key.value == "seed" and value.value.isdecimal():
            value.value = str(int(value.value))


def _scene(entry: Any, where: str, number: int, folder: Path, seed: int) -> Scene:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must have keys ({', '.join(sorted(SCENE_KEYS))})")
    for key in entry:
        if key not in SCENE_KEYS:
            raise InputError(f"{where} has unknown key {key!r}{nearest(str(key), SCENE_KEYS)}")
    prompts = _texts(entry, "prompt", where) + _texts(entry, "prompts", where)
    canvas, scene_id = entry.get("canvas"), entry.get("scene_id", f"scene{number:04d}")
    own_seed = entry.get("seed", seed)
    if not _is_whole(own_seed) or not isinstance(canvas, str | None):
        raise InputError(f"{where}: seed must be a whole number and canvas a file name")
    if not isinstance(scene_id, str) and not _is_whole(scene_id):
        raise InputError(f"{where}: scene_id must be a text, not {json.dumps(scene_id)}")
    return Scene(
        scene_id=str(scene_id),
        prompts=tuple(prompts),
        canvas=None if canvas is None else folder / canvas,
        elements=tuple(str(folder / element) for element in _texts(entry, "elements", where)),
        seed=own_seed,
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(entry: dict[str, Any], key: str, where: str) -> list[str]:
    value = entry.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        quoted = ', in YAML quoted: ["dog.png@0.6,0.7,0.4"]' if key == "elements" else ""
        raise InputError(f"{where}: {key} must be a text or a list of texts{quoted}")
    return texts


def check_request(model: str, scenes: Sequence[Scene], settings: GenerateSettings) -> None:
    """Raises `InputError` for what can be known to fail without loading the model."""
    check_model(model)
    if not scenes:
        raise InputError("nothing to generate: the scene list is empty")
    for scene in scenes:
        _check_scene(scene)
    check_settings(settings)


def check_model(model: str) -> None:
    """Raises `InputError` unless `model` is a model's folder or could be a hub id."""
    folder = Path(model)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in (EXPORT_NAME, MODEL_INDEX)):
            raise InputError(
                f"{model} is no model: neither {EXPORT_NAME} nor {MODEL_INDEX} is in it; "
                "`anyscene export RUN --out DIR` makes one of a run"
            )
    elif not HUB_ID.fullmatch(model):
        raise InputError(f"no model folder {model}, and no hub id such as ORGANISATION/NAME")


def _check_scene(scene: Scene) -> None:
    name = scene.scene_id
    if not SCENE_ID.fullmatch(name):
        raise InputError(f"scene_id {name!r} must be letters, digits, '.', '_' and '-' only")
    if not scene.prompts:
        raise InputError(f"scene {name} has no prompt: give --prompt, or `prompt` in its list")
    if not 0 <= scene.seed < 2**62:
        raise InputError(f"seed={scene.seed} of scene {name} must be at least 0, less than 2^62")
    if scene.canvas is not None and scene.elements:
        raise InputError(f"scene {name} has both a canvas and elements: give one of them")
    files = [scene.canvas] if scene.canvas is not None else []
    files += [Path(element.rpartition("@")[0]) for element in scene.elements if "@" in element]
    for path in files:
        if not path.is_file():
            raise InputError(f"no file {path}, of scene {name}")


def check_settings(settings: GenerateSettings) -> None:
    """Raises `InputError` for numbers and names that cannot be used."""
    for name in ("images", "steps", "height", "width", "micro_batch"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise InputError(f"{_option(name)} {value} must be greater than 0")
    for name in ("guidance_scale", "foreground_guidance_scale"):
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            limit = "not be negative" if value < 0 else "be a finite number"
            raise InputError(f"{_option(name)} {value:g} must {limit}")
    if settings.blend_k is not None and not 0 <= settings.blend_k <= 1:
        raise InputError(f"--blend-k {settings.blend_k:g} must be between 0 and 1")
    parse_layout(settings.layout, LayoutControl())
    for name, choices in (("dtype", DTYPES), ("device", DEVICES)):
        value = getattr(settings, name)
        if value not in choices:
            raise InputError(f"{_option(name)} {value}: choose one of {', '.join(choices)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
