"""A run folder as training leaves it, and a reader of its report."""

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from anyscene.files import write_json

VOID = {"meta", "link", "img", "br", "hr"}
STEPS = range(10, 201, 10)
GRID_STEPS = range(20, 201, 20)
BEFORE = {"psnr_in_mask": 17.86, "mask_iou": 0.789, "outside_share": 0.0061, "fid_small": 0.000337}
INTERVALS = {
    "psnr_in_mask": [17.21, 18.44],
    "mask_iou": [0.76, 0.82],
    "outside_share": [0.0, 0.01],
    "fid_small": [float("nan"), float("nan")],
}
EVALUATION = {
    "samples": 64,
    "level": 0.95,
    "step": 1200,
    "rows": [
        {
            "name": "real scenes",
            "figures": {"mask_iou": 0.9, "psnr_in_mask": 100.0},
            "intervals": {},
        },
        {"name": "FIM, before blending", "figures": BEFORE, "intervals": INTERVALS},
        {"name": "a <script> row", "figures": {"shadow_correlation": -0.021}, "intervals": {}},
    ],
    "controls": [{"name": "FIM off", "figures": {"mask_iou": 0.09}, "intervals": {}}],
    "note": "Said by the evaluation.",
}


class Page(HTMLParser):
    """What a test asks a page: its rows of tables, its addresses, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.rows: dict[str, list[str]] = {}
        self.images: list[tuple[bool, bytes]] = []  # whether in <details>, bytes
        self.text: list[str] = []
        self.row: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "img":
            data = dict(attrs)["src"].partition("base64,")[2]
            self.images.append(("details" in self.open, base64.b64decode(data)))
        if tag in ("td", "th"):
            self.row.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open = self.open[:-1] if tag not in VOID else self.open

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "tr":
            self.rows.setdefault(self.row[0], self.row[1:])
            self.row = []

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data.split()
        if "tr" in self.open and data.strip():
            self.row[-1] += ("|" if "small" in self.open else "") + data.strip()

    def says(self, words: str) -> bool:
        return words in " ".join(self.text)


def make_run(run: Path) -> Path:
    """A run of 200 steps, started again at step 80."""
    rows = ["step,name,value"]
    for step in STEPS:
        rows += [
            f"{step},train/loss,{2 / step}",
            f"{step},train/images_per_second,{100 + step % 3}",
            f"{step},train/learning_rate,{1e-3 * (200 - step) / 200}",
        ]
        if step % 100 == 0:
            rows += [f"{step},val/loss,0.5", f"{step},val/mask_iou,{step / 320}"]
            rows += [f"{step},val/psnr_in_mask,16.04", f"{step},val/psnr_in_mask_blended,40.26"]
            rows += [f"{step},val/new_figure,12.345", f"{step},val/images,64"]
            rows += [f"{step},data/bad_share,0.125"]
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    start = {"host": "vm", "device": "cpu", "threads": 2, "slurm_job_id": None}
    record = {
        "base": {"path": "some/base", "revision": None, "sha256": "3c8629eeebad" + 52 * "0"},
        "git_commit": "9e94bd4c3a1f" + 28 * "0" + "+dirty",
        "versions": {"anyscene": "0.1.0", "torch": "2.13.0"},
        "jobs": [{**start, "step": 0}, {**start, "step": 80}],
    }
    (run / "run.json").write_text(json.dumps(record))
    config = "name: a & b\nruns_dir: runs\ntrain:\n  steps: 300\n  seed: 7\n"
    (run / "config.yaml").write_text(config)
    write_json(run / "evaluation.json", EVALUATION)
    for step in GRID_STEPS:
        save_grid(run, step, width=step)
    return run


def save_grid(run: Path, step: int, width: int) -> Path:
    """A grid of one colour, told from the others by its width."""
    path = run / "samples" / f"step-{step:08d}" / "grid.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (width, 10), (200, 30, 30)).save(path)
    return path
