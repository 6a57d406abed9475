"""Custom Diffusion (Kumari et al., 2023): keys and values of cross-attention, and a new word."""

from anyscene.benchmark.fine_tune_settings import Kind
from anyscene.benchmark.methods.subject_driven import SubjectDriven


class CustomDiffusion(SubjectDriven):
    """Trained on "photo of a <new1> dog" at several sizes, and on the base's own images of a dog;
    of two subjects jointly, with `<new1>` and `<new2>`."""

    kind = Kind.custom_diffusion
