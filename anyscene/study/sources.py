"""From the manifests of several methods to cells: what is compared, and whether it can be."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyscene.errors import InputError
from anyscene.manifest import GenerationLine, read_generation_manifest
from anyscene.study.protocol import Protocol

Scene = tuple[str, str]  # scene_id, prompt
Images = dict[Scene, list["Source"]]  # in the order of seeds


@dataclass(frozen=True)
class Source:
    """One generated image, as its manifest has it."""

    method: str
    line: GenerationLine
    folder: Path  # that the line's paths are relative to

    @property
    def image(self) -> Path:
        """The file, after blending."""
        return self.folder / self.line["image"]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.line["width"], self.line["height"]

    @property
    def named(self) -> str:
        """What errors call it."""
        return f"method {self.method!r}, {_scene((self.line['scene_id'], self.line['prompt']))}"


@dataclass(frozen=True)
class Cell:
    """A foreground with a prompt and the number of an image: one image of each method."""

    scene_id: str
    prompt: str
    number: int  # of images_per_prompt, from 0, in the order of seeds
    images: tuple[Source, ...]  # in the order of methods


def read_sources(
    manifests: Sequence[tuple[str | None, Path]], protocol: Protocol
) -> tuple[tuple[str, ...], list[Cell]]:
    """The methods' names and the cells, sorted.

    Args:
        manifests: name of the method, or None for what the manifest itself says, and the file.
        protocol: the numbers that the manifests must have.

    Raises:
        InputError: manifests that do not fit each other or the protocol, in one line.
    """
    methods: dict[str, Images] = {}
    for name, path in manifests:
        for method, images in _read_methods(name, path).items():
            if method in methods:
                raise InputError(f"method {method!r} is in two manifests: give NAME={path}")
            methods[method] = images
    if len(methods) < 2:
        raise InputError(f"{len(methods)} method is too few to compare; give two or more manifests")
    _check_same_scenes(methods)
    _check_counts(methods, protocol)
    first = next(iter(methods.values()))
    cells = [
        Cell(*scene, number, tuple(images[scene][number] for images in methods.values()))
        for scene in sorted(first)
        for number in range(protocol.images_per_prompt)
    ]
    for cell in cells:
        _check_sizes(cell)
    return tuple(methods), cells


def foregrounds(cells: Sequence[Cell]) -> dict[str, Source]:
    """For each scene_id a source that has the canvas.

    Raises:
        InputError: none has, or methods were given different canvases.
    """
    found: dict[str, Source] = {}
    for cell in cells:
        for source in cell.images:
            if source.line["canvas"] is None:  # of a method that takes text alone
                continue
            other = found.setdefault(cell.scene_id, source)
            if other.line["canvas_sha256"] != source.line["canvas_sha256"]:
                raise InputError(
                    f"scene_id {cell.scene_id!r}: methods {other.method!r} and {source.method!r} "
                    "were given different foregrounds"
                )
        if cell.scene_id not in found:
            raise InputError(f"scene_id {cell.scene_id!r}: no manifest names its foreground")
    return found


def _read_methods(name: str | None, path: Path) -> dict[str, Images]:
    methods: dict[str, Images] = {}
    lines = read_generation_manifest(path)
    given = sorted({line["method"] for line in lines})
    if name and len(given) > 1:
        raise InputError(f"{path} holds methods {', '.join(given)}: give it without {name}=")
    for line in lines:
        source = Source(name or line["method"], line, path.parent)
        scenes = methods.setdefault(source.method, defaultdict(list))
        scenes[line["scene_id"], line["prompt"]].append(source)
    if not methods:
        raise InputError(f"{path} lists no image")
    for scenes in methods.values():
        for scene, sources in scenes.items():
            sources.sort(key=lambda source: source.line["seed"])
            seed, times = Counter(source.line["seed"] for source in sources).most_common(1)[0]
            if times > 1:
                raise InputError(f"{path} lists {_scene(scene)}, seed {seed} {times} times")
    return methods


def _check_same_scenes(methods: Mapping[str, Images]) -> None:
    """Every method has the same foregrounds and prompts, and equally many images of each."""
    everything = sorted(set().union(*methods.values()))
    for method, images in methods.items():
        missing = [scene for scene in everything if scene not in images]
        if missing:
            raise InputError(
                f"method {method!r} lacks {len(missing)} of {len(everything)} foregrounds with "
                f"prompts that others have, such as {_scene(missing[0])}"
            )
    for scene in everything:
        counts = {method: len(images[scene]) for method, images in methods.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{method!r} {count}" for method, count in counts.items())
            raise InputError(f"methods have unequal numbers of images of {_scene(scene)}: {told}")


def _check_counts(methods: Mapping[str, Images], protocol: Protocol) -> None:
    """The numbers of the protocol; `_check_same_scenes` comes first."""
    images = next(iter(methods.values()))
    prompts = Counter(scene_id for scene_id, _ in images)
    found = [("foregrounds", len(prompts), "the manifests")]
    found += [("prompts", count, f"scene_id {scene_id!r}") for scene_id, count in prompts.items()]
    found += [("images_per_prompt", len(own), _scene(scene)) for scene, own in images.items()]
    for key, count, where in found:
        if count != getattr(protocol, key):
            raise InputError(
                f"the protocol has {key}={getattr(protocol, key)}, but {where} "
                f"{'have' if where == 'the manifests' else 'has'} {count}"
            )


def _check_sizes(cell: Cell) -> None:
    first = cell.images[0]
    for source in cell.images:
        if source.size != first.size:
            raise InputError(
                f"{_scene((cell.scene_id, cell.prompt))}: {first.method!r} has "
                f"{first.size[0]} x {first.size[1]} pixels, {source.method!r} "
                f"{source.size[0]} x {source.size[1]}, which would tell them apart"
            )


def _scene(scene: Scene) -> str:
    return f"scene_id {scene[0]!r} with prompt {scene[1]!r}"
