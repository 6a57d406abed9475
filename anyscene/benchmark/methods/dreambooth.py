"""DreamBooth (Ruiz et al., 2023): the whole UNet, a rare token, prior preservation."""

from anyscene.benchmark.fine_tune_settings import Kind
from anyscene.benchmark.methods.subject_driven import SubjectDriven


class DreamBooth(SubjectDriven):
    """Trained on "a photo of sks dog", and on images that the base makes of "a photo of a dog".

    The text encoder stays frozen, as in the paper's own experiments with Imagen; scripts for Stable
    Diffusion can train it, too, and report better likeness with it.
    """

    kind = Kind.dreambooth
