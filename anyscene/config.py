"""The one typed configuration object. `config_io` loads, merges and checks it.

Its groups `fim` and `loss` are in `config_method`, `log`, `cluster` and `debug` in `config_run`,
layout control in `layout_settings`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from anyscene.config_method import FimConfig, LossConfig
from anyscene.config_run import ClusterConfig, DebugConfig, LogConfig
from anyscene.layout_settings import LayoutControl

REQUIRED: Any = "???"  # OmegaConf's marker of a value that the user must give


class Injection(Enum):
    """Whether a FIM guides the base model."""

    fim = "fim"
    none = "none"


class Trainable(Enum):
    """Which weights get gradients."""

    fim = "fim"
    unet = "unet"
    cross_attention_kv = "cross_attention_kv"


class Precision(Enum):
    """Arithmetic of a training step."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Optimizer(Enum):
    """What takes the steps."""

    adamw = "adamw"
    adamw8bit = "adamw8bit"


class Strategy(Enum):
    """How the ranks of a run share its work."""

    ddp = "ddp"
    fsdp2 = "fsdp2"


class Attention(Enum):
    """Which kernels compute attention, see `models.attention`."""

    auto = "auto"
    sdpa = "sdpa"
    xformers = "xformers"


class Blend(Enum):
    """How the elements' own pixels come back into the generated scene."""

    none = "none"
    alpha = "alpha"
    detail = "detail"
    laplacian = "laplacian"
    poisson = "poisson"


@dataclass
class BaseConfig:
    """The pretrained latent diffusion model that stays frozen."""

    path: str = REQUIRED
    """A diffusers Stable-Diffusion-type folder, or a hub id such as `stable-diffusion-v1-5/...`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; null for the default one."""
    first_stage: str | None = None
    """Folder or hub id of an `AutoencoderTiny` to use in place of the base's own VAE."""


@dataclass
class DataConfig:
    """Where samples come from and how they are presented."""

    train: str = REQUIRED
    """Shard folder (with manifest.json) to train on: a folder here, a URL of fsspec (`https://`,
    `s3://`, ...), or `pipe:` and a command that prints the file `{name}` of it."""
    mix: dict[str, float] = field(default_factory=dict)
    """Further shard folders and their weights: samples for each one of `train`. > 0."""
    val: str | None = None
    """Shard folder that validation reads, every sample once, given as `train`; null: no
    validation. A run warns at its start where shards or scenes of it are trained on."""
    val_samples: int = 64
    """At most so many validation samples, the first ones of the manifest's order. > 0."""
    batch_size: int = 16
    """Global batch: samples an optimizer step, over all devices and accumulation. > 0."""
    workers: int = 2
    """Loader processes a device; 0 reads in the training process."""
    shuffle_window: int = 4096
    """Samples of a lane that are shuffled together. Larger mixes better and jumps more in files."""
    cache_dir: str | None = None
    """Where fetched shards are kept, best on a disk of the node; null: the user's cache folder,
    `~/.cache/anyscene/shards`."""
    cache_gb: float = 50.0
    """Gigabytes of fetched shards that are kept, beside those being fetched. > 0."""
    max_bad_share: float = 0.01
    """Share of samples found damaged (and replaced) above which the run stops. [0, 1]."""
    exposure_stops: float = 0.5
    """Half-range of the hint's random exposure against the scene, in stops. 0: off."""
    tint: float = 0.15
    """Half-range of the hint's random tint (warm-cool, green-magenta), in stops. 0: off."""
    canvas_colour: float = 0.0
    """Half-range around grey of the random colour behind the hint's foreground. 0: off, for
    inference always shows grey. [0, 0.5]."""
    mask_jitter: float = 0.0
    """Largest random dilation or erosion of the hint's alpha, in pixels of the image, as if the
    element had been cut out imprecisely. 0: off. [0, 2]."""
    flip: float = 0.0
    """Share of samples mirrored left to right; those whose prompt names a side never are. Not with
    cached shards. 0: off, for light and writing have sides too. [0, 1]."""


@dataclass
class TrainConfig:
    """The optimisation."""

    steps: int = REQUIRED
    """Optimizer steps in all. > 0."""
    trainable: Trainable = Trainable.fim
    """`fim`: the base stays frozen. `unet`: the base's UNet itself, with `injection=none`, or
    beside a trained and now frozen FIM, `fim.init`. `cross_attention_kv`: the keys and values of
    its cross-attention and `modifier_tokens` (Custom Diffusion), with `injection=none`."""
    modifier_tokens: dict[str, str] = field(default_factory=dict)
    """New words of the text encoders that are trained, such as `<new1>`, each with the word whose
    embedding it begins with. Only for `trainable=cross_attention_kv`."""
    lora_rank: int = 0
    """Train low-rank adapters (LoRA) of the attention in `trainable`, in place of its weights. Of a
    FIM the new layers, embedder and output convolutions, are trained too. 0: off."""
    injection: Injection = Injection.fim
    """`none` trains the base without a foreground, as text-to-image."""
    zero_terminal_snr: bool = False
    """Rescale the base's noise schedule to end in pure noise (Lin et al. 2024), and write that into
    an export. Only for `trainable=unet` on a base that predicts v or the sample; a base that was
    made so has it anyway."""
    learning_rate: float = 1e-5
    """Peak learning rate of AdamW. > 0."""
    warmup_steps: int = 500
    """Steps of linear warm-up from 0."""
    final_learning_rate_share: float = 1.0
    """Share of the peak that a cosine decay ends at; 1 keeps it constant. [0, 1]."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW's two decay rates."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay. >= 0."""
    clip_norm: float = 1.0
    """Largest norm of the gradient. > 0."""
    optimizer: Optimizer = Optimizer.adamw
    """`adamw8bit` keeps its averages in 8 bits (bitsandbytes): a quarter of the memory."""
    accumulate: int = 1
    """Micro-batches an optimizer step. Divides `data.batch_size`."""
    ema_decay: float = 0.9999
    """Decay of the moving average of what is trained; it warms up by itself. 0: off. [0, 1)."""
    ema_on_cpu: bool = False
    """Keep the moving average in the CPU's memory, and on the device in validations alone."""
    prompt_dropout: float = 0.1
    """Share of prompts replaced by the empty prompt, for guidance. [0, 1]."""
    foreground_dropout: float = 0.0
    """Share of samples whose FIM is shown the empty hint, without a foreground. [0, 1]."""
    precision: Precision = Precision.fp32
    """`bf16` and `fp16` (with a scaled loss; slow on a CPU) compute in 16 bits and store what is
    frozen so; what is trained stays in float32, and the first stage where its folder says that it
    overflows."""
    attention: Attention = Attention.auto
    """`auto`: xformers on a GPU where it is installed and works, otherwise torch's own (`sdpa`)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    channels_last: bool = False
    """Memory format of convolutions; faster on recent GPUs."""
    compile: bool = False
    """`torch.compile` of the blocks of UNet and FIM, in place: no name changes."""
    devices: int = 1
    """Processes a node: GPUs, or CPU processes where there is no GPU."""
    nodes: int = 1
    """Nodes of a multi-node job."""
    strategy: Strategy = Strategy.ddp
    """`ddp`: each rank holds the whole model; the fast choice wherever it fits. `fsdp2`: the ranks
    share weights, gradients, optimizer and average of UNet and FIM, for what does not fit."""
    threads: int | None = None
    """CPU threads a process; null: torch's default."""
    deterministic: bool = False
    """Bit-reproducible kernels on CUDA, at a cost. On CPU runs are reproducible anyway."""
    seed: int = 0
    """Seed of everything: weights, data order, noise, prompts, augmentation."""
    resume: str = "auto"
    """`auto`: go on from the run folder's last checkpoint; `never`: refuse to; or the path of a
    checkpoint. A requeued job goes on with its own run in any case."""
    checkpoint_every: int = 1000
    """Steps between checkpoints. > 0."""
    keep_checkpoints: int = 3
    """Newest checkpoints that stay on disk. >= 2, so that a damaged one has a fallback."""
    validate_every: int = 1000
    """Steps between validations; there is one at the end in any case. > 0."""


@dataclass
class SampleConfig:
    """Sampling in validation: for metrics and for the sample grids."""

    steps: int = 20
    """Denoising steps of the base's own scheduler. > 0."""
    guidance_scale: float = 7.5
    """Text guidance, `s_text`. 1: off."""
    foreground_guidance_scale: float = 1.0
    """Foreground guidance, `s_fg`. Other than 1 costs a third pass."""
    layout: LayoutControl = field(default_factory=LayoutControl)
    blend: Blend = Blend.detail
    """Blending of the elements into the scene, after sampling."""
    blend_k: float = 0.25
    """`detail`: share of the foreground's own light. 1: the foreground itself; the default is what
    the figures in docs/blending.md chose. [0, 1]."""
    micro_batch: int = 8
    """Fixed batch of the sampler, the last one padded: an image depends on its seed alone. > 0."""
    grid_scenes: int = 8
    """Scenes in the sample grid, the first ones of validation. > 0."""
    seed: int = 0
    """Seed of the first validation image; the next has the next seed."""


@dataclass
class MetricsConfig:
    """Metrics of generated scenes, in validation and in scoring. `docs/metrics.md` has definitions,
    and where each network is published."""

    judge: str | None = None
    """Folder of a judge (segmenter and class means) from `anyscene prepare base`; null: no metrics
    that need it."""
    inception: str | None = None
    """`inception-2015-12-05.pt` (TorchScript), a file here or a URL, for FID and KID; null: not
    computed. As for the other ones, see docs/metrics.md for where the weights are."""
    inception_sha256: str | None = None
    """Checksum that the file must have; null: that of the published file."""
    clip: str | None = None
    """Folder or hub id of a transformers CLIP, for CLIP-Score, CLIP-I, and the next two."""
    cmmd_clip: str | None = None
    """Another CLIP for CMMD, whose definition has ViT-L/14 at 336 pixels; null: `clip`."""
    aesthetic_clip: str | None = None
    """Another CLIP for the aesthetic score, the one its head was trained on; null: `clip`."""
    aesthetic_v1: str | None = None
    """LAION's linear head, `sa_0_4_vit_b_32_linear.pth` or `..._l_14_...`, or safetensors."""
    aesthetic_v2: str | None = None
    """LAION's MLP head, `sac+logos+ava1-l14-linearMSE.pth`, or safetensors."""
    dino: str | None = None
    """Folder or hub id of a transformers DINOv2 (FD-DINOv2, DINO-I) or DINO (DINO-I)."""
    lpips: bool = False
    """LPIPS of the foreground; needs torchvision, which fetches its AlexNet."""
    reference: str | None = None
    """Folder of reference statistics from `anyscene metrics reference`, which FID, KID, CMMD and
    FD-DINOv2 compare with; null: the real scenes that come with the generated ones."""
    micro_batch: int = 16
    """Fixed batch of the feature networks, the last one padded: no figure depends on it but in its
    last bits. > 0."""


@dataclass
class Config:
    """Everything that defines a run."""

    name: str = REQUIRED
    """Name of the run; its folder is `runs_dir`/`name`."""
    runs_dir: str = "runs"
    """Where run folders are made."""
    base: BaseConfig = field(default_factory=BaseConfig)
    fim: FimConfig = field(default_factory=FimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
