"""The report of a run: what it shows, what it does without, and that it fetches nothing."""

import io
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from report_run import GRID_STEPS, Page, make_run, save_grid

from anyscene.cli import main
from anyscene.errors import InputError
from anyscene.report import EARLIER_GRIDS, WIDEST_GRID, write_report
from anyscene.report_plots import running_mean, smoothing_window
from anyscene.report_quantities import MISSING


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A whole run. Read only, but for its report."""
    return make_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def html(run_folder):
    return write_report(run_folder).read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def own_run(run_folder, tmp_path):
    """A copy of the run to change, without its grids."""
    shutil.copytree(
        run_folder, tmp_path / "own", ignore=shutil.ignore_patterns("samples", "*.html")
    )
    return tmp_path / "own"


def test_every_element_is_closed_and_no_identifier_is_there_twice(page):
    assert page.open == []
    identifiers = Counter(value for _, name, value in page.attributes if name == "id")
    assert len(identifiers) > 100  # those of the plots
    assert set(identifiers.values()) == {1}
    used = {value[1:] for _, name, value in page.attributes if name == "href" and value[:1] == "#"}
    assert used
    assert used <= identifiers.keys()


def test_figures_are_scaled_rounded_and_have_their_intervals(page):
    assert page.rows["FIM, before blending"] == [
        "17.9|17.2 to 18.4",
        "0.79|0.76 to 0.82",
        "0.6|0.0 to 1.0",
        MISSING,
        MISSING,
        MISSING,
        "0.000337",
    ]
    assert page.rows["real scenes"][1] == "0.90"
    assert page.rows["FIM off"][1] == "0.09"
    assert page.rows["a <script> row"][3] == "\N{MINUS SIGN}0.02"
    assert page.says(
        "64 validation scenes. The model of step 1,200. Small figures: 95 % intervals."
    )
    assert page.says("Said by the evaluation.")
    assert page.says("not comparable to any published FID")


def test_summary_names_what_was_run(page):
    assert page.says("a & b Step 200 of 300 Images/s 101.0 Base some/base Base sha256 3c8629eeebad")
    assert page.says("Device cpu Seed 7 Commit 9e94bd4c3a1f+dirty")
    assert page.says("anyscene 0.1.0, torch 2.13.0.")
    assert page.says("train: steps: 300 seed: 7")


def test_commands_make_the_run_again_under_another_name(page, run_folder):
    assert page.says("git checkout 9e94bd4c3a1f" + 28 * "0" + " # and changes")
    assert page.says(f"anyscene train {run_folder}/config.yaml name='a & b-again'")
    assert page.says("anyscene export 'runs/a & b-again' --out 'runs/a & b-again/export'")
    assert page.says("anyscene evaluate 'runs/a & b-again/export' --shards SHARDS --judge JUDGE")
    assert page.says("anyscene report 'runs/a & b-again'")


def test_curves_show_every_logged_figure_with_its_last_or_median_value(page):
    assert page.says("Mask IoU ↑ 0.62")  # 200 / 320, not that of the evaluation
    assert page.says("PSNR after blending, dB ↑ 40.3")
    assert page.says("new figure 12.3")
    assert page.says("bad share 0.125")
    assert page.says("Images per second ↑ 101.0")
    assert page.says("Learning rate 0")
    assert page.says("validation 0.5")
    assert page.says("training 0.01")


def test_a_dotted_line_stands_at_the_step_of_a_restart(html, page):
    assert page.says("the run was started again, at step 80.")
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) == 8
    path = r'<path d="M ([\d.]+) [^"]*"[^>]*style="[^"]*stroke-dasharray: 1,2'
    places = [re.findall(path, plot) for plot in plots]
    assert all(len(found) == 1 for found in places)
    left, right = 32, 1064 - 120
    assert float(places[0][0]) == pytest.approx(left + (right - left) * 80 / 200, abs=0.01)


def test_real_scenes_are_a_dashed_line_in_curves_of_the_same_figure(html):
    plots = {
        name: "stroke-dasharray: 4,3" in plot
        for plot in re.findall(r"<svg.*?</svg>", html, re.DOTALL)
        for name in re.findall(r'aria-label="(\S+) ', plot)
    }
    assert [name for name, dashed in plots.items() if dashed] == ["val-mask_iou"]


def test_newest_grid_is_open_and_a_few_earlier_ones_are_folded(page, run_folder):
    widths = [Image.open(io.BytesIO(data)).width for _, data in page.images]
    assert widths[0] == 200
    assert widths[1] == 180
    assert widths[-1] == 20
    assert widths == sorted(widths, reverse=True)
    assert [folded for folded, _ in page.images] == [False] + [True] * EARLIER_GRIDS
    assert page.images[0][1] == (run_folder / "samples/step-00000200/grid.png").read_bytes()
    assert page.says(f"{len(GRID_STEPS) - 1 - EARLIER_GRIDS} more in samples")


def test_a_very_wide_grid_is_reduced(own_run):
    save_grid(own_run, 200, width=2 * WIDEST_GRID)
    (_, data), *_ = page_of(own_run).images
    assert Image.open(io.BytesIO(data)).size == (WIDEST_GRID, 5)


def test_nothing_is_fetched_and_nothing_is_run(html, page):
    assert not {"script", "iframe", "object"} & {tag for tag, _, _ in page.attributes}
    assert "<script" not in html
    assert re.search("https?:|//|@import", re.sub("data:image/[^\"']*", "", html)) is None
    addresses = [v for _, name, v in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_the_same_content_gives_the_same_bytes(html, run_folder):
    again = write_report(run_folder)
    assert again.read_text() == html
    assert not list(run_folder.glob("*.part"))


def test_without_an_evaluation_the_last_validation_is_shown(own_run):
    (own_run / "evaluation.json").unlink()
    page = page_of(own_run)
    assert page.says(f"not computed: run anyscene export {own_run} --out {own_run}/export")
    assert page.says(f"anyscene evaluate {own_run}/export --shards SHARDS --judge JUDGE --out")
    before = page.rows["validation at step 200, before blending"]
    assert before[:2] == ["16.0", "0.62"]
    assert page.rows["validation at step 200, after blending"][:2] == ["40.3", MISSING]
    assert not page.says("Controls")


def test_a_figure_that_the_last_validation_lacks_is_not_of_an_earlier_one(own_run):
    """As where no generated image has a shadow; or a stop came between the images and the loss."""
    (own_run / "evaluation.json").unlink()
    with (own_run / "metrics.csv").open("a") as file:
        file.write("300,val/psnr_in_mask,18.5\n400,val/loss,0.4\n")
    rows = page_of(own_run).rows
    assert rows["validation at step 300, before blending"][:2] == ["18.5", MISSING]
    assert not [name for name in rows if "after blending" in name]


def test_figures_that_are_no_numbers_are_told_in_one_line(own_run, capsys):
    with (own_run / "metrics.csv").open("a") as file:
        file.write("21O,train/loss,0.5\n220,train/loss,0.4\n")
    assert main(["report", str(own_run)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "metrics.csv is damaged: invalid literal for int() with base 10: '21O'" in error


@pytest.mark.parametrize("missing", ["config.yaml", "run.json", "metrics.csv"])
def test_a_missing_part_is_left_out(own_run, missing):
    (own_run / missing).unlink()
    page = page_of(own_run)
    assert page.open == []
    assert page.rows["FIM off"][1] == "0.09"


def test_three_steps_without_a_validation(tmp_path):
    run = tmp_path / "short"
    run.mkdir()
    (run / "metrics.csv").write_text("step,name,value\n3,train/loss,0.5\n")
    page = page_of(run)
    assert page.open == []
    assert page.says("short Step 3 Key figures not computed")
    assert page.says("no validation figures either")
    assert page.says("training 0.5")
    (run / "metrics.csv").write_text("step,name,value\n")
    assert page_of(run).says("Nothing has been logged yet.")


def test_a_checkpoint_beyond_the_last_logged_step_counts(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000003.json").touch()
    (tmp_path / "run.json").write_text("{}")
    assert page_of(tmp_path).says("Step 3")


def test_a_loss_that_is_not_finite_is_pointed_out_and_not_drawn(own_run):
    with (own_run / "metrics.csv").open("a") as file:
        file.write("210,train/loss,nan\n220,train/loss,inf\n220,val/mask_iou,nan\n")
    html = write_report(own_run).read_text()
    assert Page(html).says("train/loss is not finite at step 210 for the first time.")
    assert "nan" not in " ".join(re.findall(r' d="([^"]*)"', html)).lower()


def test_a_folder_that_is_no_run_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path) in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluation.json", "run.json", "config.yaml"])
@pytest.mark.parametrize("text", ['{"rows": [', "3"])
def test_a_damaged_file_is_named_in_one_line(own_run, name, text):
    (own_run / name).write_text(text)
    with pytest.raises(InputError, match=rf"{name} is damaged: .+$"):
        write_report(own_run)


def test_command_says_where_the_report_is(own_run, capsys):
    assert main(["report", str(own_run)]) == 0
    assert capsys.readouterr().out == f"report: {own_run / 'report.html'}\n"


@pytest.mark.parametrize(("count", "window"), [(1, 1), (39, 1), (60, 3), (100, 5), (119, 5)])
def test_window_of_the_running_mean_is_odd(count, window):
    assert smoothing_window(count) == window


def test_running_mean_is_centred_and_fair_at_the_ends():
    values = np.array([1.0, 2.0, 6.0, 3.0, 9.0])
    expected = [1.5, 3.0, 11 / 3, 6.0, 6.0]
    assert running_mean(values, 3) == pytest.approx(np.array(expected))


def browse(page: Path, folder: Path) -> tuple[set[str], list[str]]:
    """Hosts that Chromium asks for on opening a page, without its own maker's; console lines."""
    log = folder / f"{page.stem}.json"
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"),
        *(f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--dump-dom"),
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "</html>" in done.stdout
    hosts = {
        urlsplit(url).hostname or "" for url in re.findall(r'"url":"(\w+:[^"]*)', log.read_text())
    }
    foreign = {host for host in hosts if host and not re.search(r"\bgoogle(apis)?\.com$", host)}
    return foreign, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_browser_asks_nobody_and_finds_no_error(html, tmp_path):
    unguarded = re.sub(r"<meta http-equiv[^>]*>", "", html)
    image = '<img src="https://example.invalid/x.png"></main>'
    texts = {"whole": html, "unguarded": unguarded}
    texts |= {"guarded_fetch": html.replace("</main>", image)}
    texts |= {"unguarded_fetch": unguarded.replace("</main>", image)}
    for name, text in texts.items():
        (tmp_path / f"{name}.html").write_text(text)
    found = {name: browse(tmp_path / f"{name}.html", tmp_path) for name in texts}
    assert found["whole"] == found["unguarded"] == (set(), [])
    assert found["unguarded_fetch"][0] == {"example.invalid"}  # the log shows what is fetched
    assert found["guarded_fetch"][0] == set()
    assert "Content Security Policy" in found["guarded_fetch"][1][0]
