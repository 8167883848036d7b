"""Prompts that are longer than a text encoder reads: told, with what is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import text_to_image

from smoothed_energy.cli.prompt_length import what_is_cut

ROOM = 14  # the tiny tokenizer reads 16, one a letter, and two mark start and end


@pytest.fixture(scope="module")
def pipe():
    return text_to_image()


@pytest.mark.parametrize(
    ("prompt", "cut"),
    [
        ("", None),
        ("a" * ROOM, None),
        ("abc defg hijk lmn", None),
        ("abc defg hijk lmno", "lmno"),
        ("abc defg hijk lmnop qrs", "lmnop qrs"),
        ("abc defg hijk lmn opq", "opq"),
    ],
)
def test_the_words_that_are_cut(pipe, prompt, cut):
    found = [*what_is_cut(pipe, prompt, "")]
    if cut is None:
        assert found == []
    else:
        (line,) = found
        told = line.removesuffix("'").rpartition("'")[2]
        # Tokenizers that don't know where words begin tell the tokens that are cut.
        assert told == cut if pipe.tokenizer_2.is_fast else told and cut.endswith(told)
        assert line.endswith(f"reads 16 tokens, and not {told!r}")
        assert line.startswith("the prompt is too long: ")


def test_negative_prompts_are_looked_at_too(pipe):
    (line,) = what_is_cut(pipe, "cat", "x" * 20)
    assert line.startswith("--negative-prompt is too long")


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text("abc", min_size=1, max_size=6), max_size=8))
def test_something_is_cut_if_and_only_if_the_encoder_sees_less(words):
    pipe = text_to_image()
    prompt = " ".join(words)
    tokens = pipe.tokenizer_2(prompt).input_ids
    seen = pipe.tokenizer_2(prompt, truncation=True, max_length=16).input_ids
    assert bool([*what_is_cut(pipe, prompt, "")]) == (len(tokens) > len(seen))


def test_it_is_a_warning_of_the_command(run, model):
    code, _, err = run("generate", "a b c d e f g h i j k l m n o", "--model", model)
    assert code == 0, err
    assert err.splitlines()[0].startswith("warning: the prompt is too long: the text encoder (CLIP")
    assert err.splitlines()[0].endswith("and not 'o'")
