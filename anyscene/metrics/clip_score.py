"""CLIP-Score: does an image show what its prompt says?"""

from torch import Tensor

from anyscene.metrics.per_image import PerImageMetric


class ClipScore(PerImageMetric):
    """Similarity of CLIP's embeddings of an image and its prompt, in both conventions in use.

    `clip_cosine`: the cosine. `clip_score`: 100 max(cosine, 0), torchmetrics' convention. (Hessel
    et al. 2021 have 2.5 max(cosine, 0).)
    """

    names = ("clip_score", "clip_cosine")

    def update(self, images: Tensor, texts: Tensor) -> None:
        """Embeddings B D of length 1 of images and of their prompts."""
        cosine = (images.double() * texts.double()).sum(dim=1)
        self.keep(100 * cosine.clamp(min=0), cosine)
