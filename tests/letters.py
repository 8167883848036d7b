"""A tokenizer whose tokens are single letters."""

import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer


def letter_tokenizer(letters):
    """A tokenizer of these letters, which begin and end words. It reads 16 tokens."""
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    # Its constructor takes other arguments from transformers 5 on; files are read by all.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(
            json.dumps({word: number for number, word in enumerate(words)})
        )
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=16)
