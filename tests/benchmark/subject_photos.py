"""Drawn photos of two subjects, one with masks, for tests of subject sets."""

from pathlib import Path

import numpy as np
from PIL import Image

DREAMBOOTH = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dreambooth"

YAML = """\
prompts: ["a {subject} in the snow", "a {subject} on the beach"]
subjects:
  mug: {noun: mug}
  rex: {noun: dog, prompts: ["a {subject} in a hat"]}
"""


def photo_folder(folder: Path) -> Path:
    """Two photos of a red mug with masks, one of a brown dog without."""
    for name, count, colour in (("mug", 2, (200, 40, 40)), ("rex", 1, (120, 80, 40))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((80, 100, 3), (60 + 90 * number, 120, 180), np.uint8)
            pixels[30:70, 30 + 5 * number : 60] = colour
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
            if name == "mug":
                mask = np.zeros((80, 100), np.uint8)
                mask[30:70, 30 + 5 * number : 60] = 255
                Image.fromarray(mask).save(folder / name / f"{number}_mask.png")
    (folder / "subjects.yaml").write_text(YAML)
    return folder
