"""The compared systems, one file each, behind one interface: `base.Method`.

The registry names classes without importing them: it can be read before torch is.
"""

METHODS = {
    "anyscene": "anyscene.benchmark.methods.anyscene:AnyScene",
    "stable_diffusion": "anyscene.benchmark.methods.stable_diffusion:StableDiffusion",
    "controlnet_canny": "anyscene.benchmark.methods.controlnet_canny:ControlNetCanny",
    "inpaint_anything": "anyscene.benchmark.methods.inpaint_anything:InpaintAnything",
    "blended_latent": "anyscene.benchmark.methods.blended_latent:BlendedLatent",
    "dreambooth": "anyscene.benchmark.methods.dreambooth:DreamBooth",
    "custom_diffusion": "anyscene.benchmark.methods.custom_diffusion:CustomDiffusion",
    "paste": "anyscene.benchmark.methods.paste:Paste",
    "known_shadow": "anyscene.benchmark.methods.known_shadow:KnownShadow",
}
"""Module and class by name, in the order of reports."""

TOLD_THE_ANSWER = ("known_shadow",)
"""Methods that are shown what is measured; they are no rivals, but bounds."""

NEEDS_TRUTH = ("known_shadow",)
NEEDS_CONTROLNET = ("controlnet_canny",)
TAKES_SAM = ("inpaint_anything",)
TAKES_BLEND = ("anyscene",)
NEEDS_SUBJECTS = ("dreambooth", "custom_diffusion")
"""Methods that are fine-tuned on the subjects of a subject set."""

NEEDS_NO_FOREGROUND = ("stable_diffusion", *NEEDS_SUBJECTS)
