"""The tokenizer of an embedded base."""

from collections import Counter

from tiny import CAPTIONS

from data_prep.text_encoder import END, learn_merges, train_tokenizer


def test_tokenizer_is_the_same_each_time(tmp_path):
    """Ids are places in the text encoder's table: another order would be another base."""
    for folder in ("one", "other"):
        train_tokenizer(CAPTIONS).save_pretrained(tmp_path / folder)
    one, other = ((tmp_path / f / "tokenizer.json").read_bytes() for f in ("one", "other"))
    assert one == other


def test_tokenizer_has_each_word_of_the_captions_as_one_token():
    tokenizer = train_tokenizer(CAPTIONS)
    words = {word for caption in CAPTIONS for word in caption.lower().replace(".", " .").split()}
    assert {word: tokenizer.tokenize(word) for word in words} == {w: [w + END] for w in words}


def test_tokenizer_knows_any_text():
    """What it cannot spell would end the text, as an unknown token is CLIP's end."""
    tokenizer = train_tokenizer(CAPTIONS)
    for text in ("zyx caterpillar", "née vw", "\N{DOG FACE} \u8c61"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids[1:-1]).strip() == text
        assert ids.count(tokenizer.eos_token_id) == 1


def test_tokenizer_merges_the_most_frequent_pair_first():
    """And of equally frequent ones the first in the alphabet: `ew`, not `ne` or `wer`. The words
    are those of Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units"."""
    words = Counter({"low": 5, "lowest": 2, "newer": 6, "wider": 3})
    assert learn_merges(words)[:3] == [("e", "r" + END), ("l", "o"), ("e", "w")]  # 9, 7, 6 times
