"""Train a tokenizer and a small CLIP text encoder on the captions of a data set."""

from collections import Counter
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_LENGTH = 32  # tokens
END = "</w>"  # marks the last symbol of a word

Tokenizer = Any  # CLIPTokenizer, whose token ids are typed as nearly anything
TextModel = Any  # CLIPTextModel, whose `to` is typed as a plain function


def train_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE) in which every word of the captions is one token.

    The same captions give the same tokenizer; the trainer of `tokenizers` breaks ties at random.
    """
    split = CLIPTokenizer().backend_tokenizer
    words = Counter(
        word
        for caption in captions
        for word, _ in split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(caption))
    )
    merges = learn_merges(words)
    letters = sorted(ByteLevel.alphabet())
    symbols = [*letters, *(letter + END for letter in letters), *("".join(pair) for pair in merges)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *dict.fromkeys(symbols)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    parts: dict[str, Any] = {"vocab": vocabulary, "merges": merges}
    return CLIPTokenizer(**parts, model_max_length=MAX_LENGTH)


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte pair encoding (Sennrich et al., ACL 2016) until each word is whole: the most frequent
    pair is merged first, of equally frequent ones the first in the alphabet."""
    spelled = {word: [*word[:-1], word[-1] + END] for word in words}
    merges = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for parts in spelled.values():
            for i in range(len(parts) - 2, -1, -1):
                if tuple(parts[i : i + 2]) == best:
                    parts[i : i + 2] = ["".join(best)]


def build_text_encoder(tokenizer: Tokenizer, width: int) -> CLIPTextModel:
    """Two CLIP layers of `width` channels for the tokenizer's vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = CLIPTextModel(config)
    embeddings: Any = model.get_input_embeddings()
    nn.init.normal_(embeddings.weight, std=0.3)
    return model


def train_text_encoder(
    model: TextModel,
    tokenizer: Tokenizer,
    captions: list[str],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str,
) -> dict[str, float]:
    """Teach states that a UNet can read: each token knows itself and its two predecessors, the last
    one knows all words of the caption. Returns the final accuracies, [0, 1]."""
    model.to(device).train()
    ids = tokenizer(
        captions,
        padding="max_length",
        max_length=MAX_LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids.to(device)
    width, vocabulary = model.config.hidden_size, len(tokenizer)
    heads = nn.ModuleList(nn.Linear(width, vocabulary) for _ in range(4)).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    figures: dict[str, float] = {}
    for step in tqdm(range(steps), desc="text encoder", unit="step"):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(ids), (batch,), generator=generator).to(device)
        loss, figures = _text_loss(model, heads, ids[chosen], tokenizer.eos_token_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    return figures


def _text_loss(
    model: CLIPTextModel, heads: nn.ModuleList, ids: Tensor, eos: int
) -> tuple[Tensor, dict[str, float]]:
    states = model(ids)[0]  # B n d
    end = (ids == eos).int().argmax(1)  # the first end-of-text; padding follows
    inside = torch.arange(ids.shape[1], device=ids.device) <= end[:, None]
    loss = torch.zeros((), device=ids.device)
    figures = {}
    for back, head in enumerate(heads[:3]):
        logits = head(states[:, back:])[inside[:, back:]]
        labels = ids[:, : ids.shape[1] - back][inside[:, back:]]
        loss = loss + F.cross_entropy(logits, labels)
        figures[f"token_minus_{back}"] = float((logits.argmax(-1) == labels).float().mean())
    words: Any = heads[3]
    bag = F.one_hot(ids, words.out_features).amax(1).float()
    logits = words(states[torch.arange(len(ids), device=ids.device), end])
    loss = loss + 3 * F.binary_cross_entropy_with_logits(logits, bag)
    figures["bag_of_words"] = float(((logits > 0) == (bag > 0)).all(1).float().mean())
    return loss, figures
