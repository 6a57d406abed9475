"""The demo of a study: drawn images, simulated people, a report that says so."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from report_run import Page
from simulated import PROTOCOL as SIMULATED
from simulated import imageless_folder

from anyscene.errors import InputError
from anyscene.manifest import read_generation_manifest
from anyscene.study.demo import PROTOCOL, run_study_demo
from anyscene.study.demo_images import METHODS, SIZE
from anyscene.study.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The protocol of the demo with fewer images."""
    values = yaml.safe_load((REPOSITORY / PROTOCOL).read_text())
    path = tmp_path_factory.mktemp("protocol") / "small.yaml"
    path.write_text(yaml.safe_dump(values | {"foregrounds": 5, "prompts": 2, "sets": 4}))
    return path


@pytest.fixture(scope="module")
def demo(small, tmp_path_factory):
    """Its folder. Read only."""
    out = tmp_path_factory.mktemp("demo") / "study-demo"
    run_study_demo(out, small)
    return out


def test_report_says_that_raters_are_simulated_and_finds_what_they_were_made_to_think(demo):
    page = Page((demo / "study/report/report.html").read_text())
    assert page.says("Toys in generated scenes (simulated raters)")
    assert page.rows["a03"][-1].startswith("failed ")
    means = {m: [float(cell.split("|")[0]) for cell in page.rows[m]] for m in METHODS}
    for criterion, spoilt in enumerate(("blurred", "pasted", "recoloured")):
        assert means[spoilt][criterion] < means["matched"][criterion]


def test_each_method_spoils_what_it_says(demo):
    lines = {
        method: read_generation_manifest(demo / "images" / method / "manifest.jsonl")
        for method in METHODS
    }
    for number, line in enumerate(lines["matched"]):
        names = {
            method: demo / "images" / method / own[number]["image"] for method, own in lines.items()
        }
        image = {m: np.asarray(Image.open(path), float) for m, path in names.items()}
        canvas = np.asarray(Image.open(demo / "images/matched" / str(line["canvas"])), float)
        inside = canvas[..., 3] > 0
        cut_out = canvas[..., :3]
        assert image["matched"].shape == (SIZE, SIZE, 3)
        assert np.abs(image["pasted"] - cut_out)[inside].max() == 0
        assert np.abs(image["matched"] - cut_out)[inside].mean() > 5  # another light
        outside = np.abs(image["pasted"] - image["matched"])[~inside]
        assert 0.02 < (outside > 8).mean() < 0.5  # shadows, and nothing else
        changed = np.abs(image["recoloured"] - image["matched"])
        assert changed[inside].mean() > 4 * changed[~inside].mean()
        assert (
            np.diff(image["blurred"], axis=0).std() < 0.5 * np.diff(image["matched"], axis=0).std()
        )
        assert line["model"] == "none: drawn"


def test_a_real_study_is_left_alone(small, tmp_path):
    imageless_folder(tmp_path / "study", SIMULATED, ("one", "other"), seed=1)
    with pytest.raises(InputError, match="holds another study, 'A <simulated> study'"):
        run_study_demo(tmp_path, small)
    store = Store(tmp_path / "study")
    assert store.answers() == []
    store.close()


def test_a_second_call_reuses_the_study_and_answers_nothing_twice(demo, small, capsys):
    store = Store(demo / "study")
    before = store.answers()
    store.close()
    run_study_demo(demo, small)
    store = Store(demo / "study")
    assert store.answers() == before
    store.close()
    assert "is there: reused" in capsys.readouterr().out
