"""Text conditions: what a base's one or two text encoders make of prompts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SIZE_NUMBERS = 6
"""Numbers of SDXL's size and crop condition."""


@dataclass(frozen=True)
class TextCondition:
    """Encoded prompts."""

    hidden: Tensor  # B n d
    pooled: Tensor | None = None  # B p, of SDXL's second encoder; None: Stable Diffusion 1 and 2

    def repeated(self, times: int) -> "TextCondition":
        """Each row `times` in a row."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(times, 0)
        return TextCondition(self.hidden.repeat_interleave(times, 0), pooled)

    def to(self, **place: Any) -> "TextCondition":
        """On another device, in another dtype."""
        pooled = None if self.pooled is None else self.pooled.to(**place)
        return TextCondition(self.hidden.to(**place), pooled)

    def network_arguments(self, sizes: Tensor | None) -> dict[str, Any]:
        """The condition by the names of diffusers' UNet and ControlNet arguments.

        `sizes` is what `micro_condition` gives, B 6; only SDXL's networks take it.
        """
        if self.pooled is None:
            return {"encoder_hidden_states": self.hidden}
        added = {"text_embeds": self.pooled, "time_ids": sizes}
        return {"encoder_hidden_states": self.hidden, "added_cond_kwargs": added}


def join_texts(texts: list[TextCondition]) -> TextCondition:
    """The rows of several conditions, one after another."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return TextCondition(
        torch.cat([text.hidden for text in texts]), torch.cat(pooled) if pooled else None
    )


@dataclass(frozen=True)
class TextEncoders:
    """The text side of a base. SDXL has a second encoder, whose projection gives `pooled`.

    `device` is where they compute; offloaded weights may be elsewhere between two calls.
    """

    device: torch.device
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    tokenizer_2: CLIPTokenizer | None = None
    text_encoder_2: CLIPTextModelWithProjection | None = None
    zeros_for_empty: bool = False  # the base's convention of an empty prompt

    def encode(self, prompts: list[str]) -> TextCondition:
        """The condition of each prompt; the tokenizer cuts long ones and keeps their end token.

        With a graph where weights of the encoders have gradients, as those of new words have.

        Stable Diffusion 1 and 2 take the last hidden states. SDXL takes those before the last of
        both encoders, side by side (Podell et al. 2023, section 2.1), and where its folder says so
        (`force_zeros_for_empty_prompt`) an empty prompt is zeros.
        """
        if self.tokenizer_2 is None or self.text_encoder_2 is None:
            return TextCondition(self.text_encoder(self._tokens(self.tokenizer, prompts))[0])
        first = self.text_encoder(
            self._tokens(self.tokenizer, prompts), output_hidden_states=True
        ).hidden_states[-2]
        second = self.text_encoder_2(
            self._tokens(self.tokenizer_2, prompts), output_hidden_states=True
        )
        hidden = torch.cat([first, second.hidden_states[-2]], dim=-1)
        pooled = second.text_embeds
        if self.zeros_for_empty:
            spoken = torch.tensor([prompt != "" for prompt in prompts])
            spoken = spoken.to(hidden.device, non_blocking=True)
            hidden = hidden * spoken[:, None, None]
            pooled = pooled * spoken[:, None]
        return TextCondition(hidden, pooled)

    def unread(self, prompt: str) -> str:
        """The end of a prompt that the tokenizer cuts off; "" where all of it is read."""
        tokens = self.tokenizer(prompt, verbose=False).input_ids
        read = self.tokenizer.model_max_length - 1  # and the end token
        return str(self.tokenizer.decode(tokens[read:-1]))

    def _tokens(self, tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
        return tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(self.device, non_blocking=True)


def micro_condition(original_size: Tensor, crop_top_left: Tensor, size: tuple[int, int]) -> Tensor:
    """SDXL's size and crop condition, B 6 (Podell et al. 2023, section 2.2).

    `original_size` and `crop_top_left` are B 2 (height and width, y and x), `size` the image's own
    height and width, all in pixels.
    """
    target = [torch.full_like(original_size[:, :1], side) for side in size]
    return torch.cat([original_size, crop_top_left, *target], dim=1)
