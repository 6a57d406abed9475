"""LAION's heads on the embeddings that were published with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anyscene.errors import InputError
from anyscene.metrics.aesthetic import load_aesthetic

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
WEIGHTS = SHARED / "weights/aesthetic"
EMBEDDINGS = SHARED / "references/laion_aesthetic_embeddings"

published = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="no ../shared/data/weights/aesthetic")
HEADS = {  # file, embeddings, rating of the lowest and the highest one
    "V1 B/32": ("sa_0_4_vit_b_32_linear.pth", "vit_b_32", -1.47, 11.01),
    "V1 L/14": ("sa_0_4_vit_l_14_linear.pth", "vit_l_14", -2.46, 11.30),
    "V2": ("sac+logos+ava1-l14-linearMSE.pth", "vit_l_14", 1.66, 5.75),
}


@published
@pytest.mark.parametrize(("file", "network", "low", "high"), HEADS.values(), ids=HEADS)
def test_ratings_of_the_published_embeddings(file, network, low, high):
    folder = EMBEDDINGS / f"{network}_embeddings"
    rows = np.concatenate([np.load(folder / f"rating{number}.npy") for number in range(10)])
    head = load_aesthetic(str(WEIGHTS / file), "metrics.aesthetic")
    ratings = head(torch.from_numpy(rows)).tolist()
    assert ratings == sorted(set(ratings))
    assert ratings[0] == pytest.approx(low, abs=0.01)
    assert ratings[-1] == pytest.approx(high, abs=0.01)


def mlp(width: int = 768) -> dict[str, torch.Tensor]:
    widths = {0: (1024, width), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    weights = {f"layers.{n}.weight": torch.randn(shape) / 30 for n, shape in widths.items()}
    return weights | {f"layers.{n}.bias": torch.randn(shape[0]) for n, shape in widths.items()}


def test_safetensors_and_pth_are_the_same_head(tmp_path):
    weights = mlp()
    torch.save(weights, tmp_path / "head.pth")
    save_file(weights, tmp_path / "head.safetensors")
    embeddings = torch.randn(3, 768)
    one, other = (
        load_aesthetic(str(tmp_path / f"head.{end}"), "metrics.aesthetic_v2")(embeddings)
        for end in ("pth", "safetensors")
    )
    expected = embeddings
    for number in (0, 2, 4, 6, 7):
        layer = weights[f"layers.{number}.weight"], weights[f"layers.{number}.bias"]
        expected = torch.nn.functional.linear(expected, *layer)
    torch.testing.assert_close(one.float(), expected[:, 0])
    assert torch.equal(one, other)


class Payload:
    pass


@pytest.mark.parametrize(
    "content",
    [mlp(512), {"weight": torch.zeros(1, 4)}, [1], Payload()],
    ids=["width", "part", "list", "pickle"],
)
def test_other_files_are_refused_in_one_line(content, tmp_path):
    path = tmp_path / "head.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=r"^metrics.aesthetic_v2='.*head.pth'") as caught:
        load_aesthetic(str(path), "metrics.aesthetic_v2")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no file here; see docs/metrics.md"):
        load_aesthetic(str(tmp_path / "none.pth"), "metrics.aesthetic_v1")


def test_each_head_is_refused_as_the_other(tmp_path):
    torch.save(mlp(), tmp_path / "v2.pth")
    with pytest.raises(InputError, match=r"is the MLP head V2; give it as metrics.aesthetic_v2"):
        load_aesthetic(str(tmp_path / "v2.pth"), "metrics.aesthetic_v1")
    torch.save({"weight": torch.zeros(1, 4), "bias": torch.zeros(1)}, tmp_path / "v1.pth")
    with pytest.raises(InputError, match=r"is the linear head V1"):
        load_aesthetic(str(tmp_path / "v1.pth"), "metrics.aesthetic_v2")
