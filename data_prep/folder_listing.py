"""Which images a folder holds, what tells the foreground of each, and what each is called."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anyscene.errors import InputError

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
ENDING = re.compile(r"([._]mask)?\.[^.]+$", re.IGNORECASE)
LONGEST_KEY = 64  # characters

Files = Mapping[str, Sequence[str]]  # paths by what they are with their ending in small letters


@dataclass(frozen=True, slots=True)
class Entry:
    """One image; paths are below the source, with forward slashes."""

    image: str
    mask: str | None
    annotations: str | None  # JSON
    text: str | None = None  # NAME.txt: a caption a line
    captions: tuple[str, ...] | None = None  # in place of its lines

    @property
    def name(self) -> str:
        """The path without folders called `images` and without the ending."""
        path = PurePosixPath(self.image)
        return "/".join([*(part for part in path.parts[:-1] if part != "images"), path.stem])

    @property
    def key(self) -> str:
        """The name where shards can bear it, else what is left of it and a part of its checksum."""
        clean = re.sub(r"[^\w-]", "_", self.name, flags=re.ASCII)
        if clean == self.name and len(clean) <= LONGEST_KEY:
            return clean
        return f"{clean[: LONGEST_KEY - 9]}-{self._checksum().hex()[:8]}"

    @property
    def image_id(self) -> int:
        """The name where it is a number, as COCO's are, else 48 bits of its checksum."""
        if re.fullmatch("[0-9]{1,15}", self.name):
            return int(self.name)
        return int.from_bytes(self._checksum()[:6])

    def _checksum(self) -> bytes:
        return hashlib.sha256(os.fsencode(self.name)).digest()


def list_folder(source: Path) -> tuple[list[Entry], str]:
    """The images in and below a folder by path, and a checksum of their files' names and sizes.

    Raises `InputError` when there is no image, or it is not clear what belongs to one.
    """
    if not source.is_dir():
        raise InputError(f"no such folder: {source}")
    sizes = dict(sorted(_files(source)))
    pictures = [path for path in sizes if PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES]
    files: defaultdict[str, list[str]] = defaultdict(list)
    for path in sizes:
        files[ENDING.sub(lambda ending: ending[0].lower(), path)].append(path)
    masks = {picture: _mask(source, picture, files) for picture in pictures}
    taken = set(masks.values())
    entries = [
        Entry(
            picture,
            masks[picture],
            _beside(source, picture, ".json", files),
            _beside(source, picture, ".txt", files),
        )
        for picture in pictures
        if picture not in taken
    ]
    if not entries:
        raise InputError(f"{source} holds no image: none ends in {' '.join(IMAGE_SUFFIXES)}")
    _check_names(source, entries)
    used = {
        path
        for entry in entries
        for path in (entry.image, entry.mask, entry.annotations, entry.text)
    }
    listing = "".join(f"{path}\0{size}\n" for path, size in sizes.items() if path in used)
    return entries, hashlib.sha256(os.fsencode(listing)).hexdigest()


def _files(source: Path) -> Iterator[tuple[str, int]]:
    """Path and bytes of every image, JSON and text file below `source`, hidden ones left out.

    Links to folders are followed, but for those to what is seen anyway, or was. Raises `OSError`
    for a folder that cannot be read.
    """
    root = source.resolve()
    seen = {root}

    def is_new(path: Path) -> bool:
        real = path.resolve()
        if real in seen or (path.is_symlink() and real.is_relative_to(root)):
            return False
        seen.add(real)
        return True

    for folder, folders, names in os.walk(source, onerror=_refuse, followlinks=True):
        shown = sorted(n for n in folders if not n.startswith(".") and n != "lost+found")
        folders[:] = [name for name in shown if is_new(Path(folder, name))]
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in (*IMAGE_SUFFIXES, ".json", ".txt") and not name.startswith("."):
                path = Path(folder, name)
                yield path.relative_to(source).as_posix(), _size(path)


def _refuse(error: OSError) -> None:
    raise error


def _size(path: Path) -> int:
    """Bytes of a file, 0 of a link to nothing: that is listed, and rejected as unreadable."""
    try:
        return path.stat().st_size
    except OSError:  # nothing there, or a link to itself
        return 0


def _mask(source: Path, image: str, files: Files) -> str | None:
    path = PurePosixPath(image)
    places = [path.with_name(f"{path.stem}{end}.png") for end in ("_mask", ".mask")]
    if path.parent.name == "images":
        places.append(path.parent.with_name("masks") / f"{path.stem}.png")
    return _only(source / image, "masks", places, files)


def _beside(source: Path, image: str, suffix: str, files: Files) -> str | None:
    place = PurePosixPath(image).with_suffix(suffix)
    return _only(source / image, f"{suffix} files", [place], files)


def _only(image: Path, kind: str, places: Sequence[PurePosixPath], files: Files) -> str | None:
    """The file in one of the places, its ending in any letters. Raises `InputError` for two."""
    found = [path for place in places for path in files.get(str(place), ())]
    if len(found) > 1:
        raise InputError(f"{image} has two {kind}, {' and '.join(found)}; leave one there")
    return found[0] if found else None


def _check_names(source: Path, entries: Sequence[Entry]) -> None:
    images: dict[str, str] = {}
    for entry in entries:
        if entry.key in images:
            raise InputError(
                f"{source}: {images[entry.key]} and {entry.image} would both be "
                f"{entry.key!r}; rename or move one"
            )
        images[entry.key] = entry.image
