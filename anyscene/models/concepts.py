"""What Custom Diffusion trains of a base: cross-attention's keys and values, and new words.

Kumari et al. 2023, "Multi-Concept Customization of Text-to-Image Diffusion", section 3.2: of the
UNet only what text is projected by, and for each concept the embedding of one new word (a modifier
token, `<new1>`), which begins as that of a rare word.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from anyscene.errors import InputError
from anyscene.models.base import Base

KEYS_AND_VALUES = (".attn2.to_k.weight", ".attn2.to_v.weight")
"""Ends of the names of cross-attention's weights in diffusers' UNets."""


class TokenTable(nn.Module):
    """A text encoder's token embedding with rows of new tokens, which alone are trained.

    The rows are a parameter of their own: the optimizer, its weight decay included, never sees
    those of other words, and a checkpoint holds the new ones alone.
    """

    def __init__(self, words: nn.Embedding, first: int, rows: Tensor) -> None:
        """`words` gives the tokens below `first`, `rows` n D those from `first` on."""
        super().__init__()
        self.words = words.requires_grad_(False)
        self.first = first
        self.rows = nn.Parameter(rows)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings B n D of tokens B n int64."""
        known = self.words(tokens.clamp(max=self.first - 1))
        new = self.rows[(tokens - self.first).clamp(min=0)].to(known.dtype)
        return torch.where((tokens >= self.first)[..., None], new, known)

    def merged(self) -> nn.Embedding:
        """The same as a plain embedding, which is as long as it must be."""
        weight = self.words.weight.detach()
        length = max(len(weight), self.first + len(self.rows))
        whole = weight.new_zeros(length, weight.shape[1])
        whole[: len(weight)] = weight
        whole[self.first : self.first + len(self.rows)] = self.rows.detach().to(weight.dtype)
        embedding = nn.Embedding(length, weight.shape[1], _weight=whole)
        return embedding.requires_grad_(False)


def train_concepts(base: Base, words: Mapping[str, str]) -> Base:
    """Give gradients to the UNet's cross-attention keys and values and to new words; returns the
    base, of which nothing else has any."""
    add_words(base.text_parts(), words)
    for name, parameter in base.unet.named_parameters():
        parameter.requires_grad_(name.endswith(KEYS_AND_VALUES))
    base.unet.train()
    return base


def add_words(parts: Iterable[tuple[CLIPTokenizer, Any]], words: Mapping[str, str]) -> None:
    """Teach tokenizers new tokens, and their text encoders an embedding of each.

    A new token begins as the mean of the tokens of the word that it is given with.

    Raises:
        InputError: a tokenizer knows one of them already.
    """
    if not words:
        return
    for tokenizer, encoder in parts:
        for token in words:
            if token in tokenizer.get_vocab():
                raise InputError(
                    f"train.modifier_tokens: the base's tokenizer knows {token!r} already; choose "
                    "another one, such as <new7>"
                )
        embedding = encoder.get_input_embeddings()
        ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words.values()]
        rows = torch.stack([embedding.weight[own].detach().float().mean(0) for own in ids])
        first = len(tokenizer)
        tokenizer.add_tokens(list(words))
        encoder.set_input_embeddings(TokenTable(embedding, first, rows))
        _find_ends_by_name(encoder, tokenizer)


def _find_ends_by_name(encoder: Any, tokenizer: CLIPTokenizer) -> None:
    """Let the pooled output be where the end token is.

    Folders of before transformers 4.31 say 2, for which it is where the highest number is: with
    new tokens that would be the new word. Without any, both are the same place.
    """
    end: Any = tokenizer.eos_token_id
    encoder.config.eos_token_id = end
    for module in encoder.modules():
        if isinstance(module, CLIPTextModel):
            module.eos_token_id = end
            module.config.eos_token_id = end


def merge_words(parts: Iterable[tuple[CLIPTokenizer, Any]]) -> None:
    """Make the new words a part of plain text encoders, as `save_pretrained` shall write them."""
    for _, encoder in parts:
        table = encoder.get_input_embeddings()
        if isinstance(table, TokenTable):
            embedding = table.merged()
            encoder.set_input_embeddings(embedding)
            for module in encoder.modules():
                config = getattr(module, "config", None)
                if config is not None and hasattr(config, "vocab_size"):
                    config.vocab_size = embedding.num_embeddings
