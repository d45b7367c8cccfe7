"""The program that copies a tokenizer runs alone, so it has lists of its own of what the farm fetches of a model."""

from __future__ import annotations

from models.sources.inspection.file_names import TOKENIZER, is_vocabulary
from toolchains.trtllm.commands.carry_tokenizer import SETTINGS, VOCABULARIES


def test_the_files_of_a_tokenizer_are_those_that_are_fetched() -> None:
    assert all(map(is_vocabulary, VOCABULARIES))
    assert {*VOCABULARIES, *SETTINGS} >= TOKENIZER
