"""What words mean to a text encoder, measured."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from trainer.data.cache import TensorCache
from trainer.diffusion import encode
from trainer.triggers import meaning
from trainer.triggers.judgement import MEANS_SOME
from trainer.triggers.lab import TriggerLab
from trainer.triggers.meaning import CLASSES, LEAST_MOVE, EncoderSense, Meaning, strongest
from trainer.triggers.reference import EVERYDAY


def test_known_words_mean_more_than_rare_ones(lab: TriggerLab) -> None:
    (sense,) = lab.senses("")
    assert sense.tells
    known = torch.tensor([one.share for one in sense.measure(EVERYDAY)])
    rare = torch.tensor([one.share for one in sense.measure(lab.rare)])
    assert known.median() > 0.7
    assert rare.median().abs() < 0.1
    assert (known[:, None] > rare[None, :]).float().mean() > 0.9


def test_nonsense_of_several_pieces_means_no_more_than_one(lab: TriggerLab) -> None:
    (sense,) = lab.senses("")
    source = random.Random(5)  # not the nonsense that calibrates
    words = ["".join(source.choices("bcdfghjklmnpqrstvwxyz", k=3 + n % 5)) for n in range(100)]
    shares = torch.tensor([one.share for one in sense.measure(words)])
    assert shares.median().abs() < 0.1
    assert (shares < MEANS_SOME).float().mean() > 0.85


def test_length_ranks_among_its_own(lab: TriggerLab) -> None:
    """Ranks of nonsense are spread evenly, whatever its length: not near 1 because it is long."""
    (sense,) = lab.senses("")
    words = meaning.nonsense_words()
    ranks = torch.tensor([one.rank for one in sense.measure(words)])
    for count in (2, 3, 4):
        of_length = ranks[sense.piece_counts(words) == count]
        assert 0.4 < of_length.mean() < 0.6


def test_a_word_alone_tells_more_than_one_that_a_class_word_outweighs(lab: TriggerLab) -> None:
    """Many a known word hardly moves "a photo of {word} dog", which shows a dog; the sentence
    without a class word tells known from rare all the same, and so weighs more."""
    (sense,) = lab.senses("")
    alone, beside = sense.calibration.weights[:2]
    assert alone > 0.9 and alone >= beside
    (fox,) = sense.measure(["fox"])
    assert fox.moves > 0.5


def test_a_word_does_not_depend_on_its_batch(lab: TriggerLab) -> None:
    (sense,) = lab.senses("")
    words = ["fox", "ohwx", "qjvk", "some longer words here"]
    for word, together in zip(words, sense.measure(words), strict=True):
        (alone,) = sense.measure([word])
        assert alone.share == pytest.approx(together.share, abs=1e-3)
        assert alone.moves == pytest.approx(together.moves, abs=1e-3)


def test_states_are_those_of_the_padded_prompt(lab: TriggerLab) -> None:
    """Leaving the padding out changes nothing, since attention is causal."""
    from trainer.models.load import load_base

    (sense,) = lab.senses("")
    prompts = ["a photo of a fox", "ohwx"]
    base = load_base("tiny-emoji")
    hidden = encode(base, prompts, "cpu").hidden
    lengths = [len(base.tokenizers[0](text)["input_ids"]) for text in prompts]
    for state, row, length in zip(sense.states(prompts), hidden, lengths, strict=True):
        assert torch.allclose(state, row[length - 1], atol=1e-4)


def test_calibration_is_cached(lab: TriggerLab, tmp_path: Path) -> None:
    told: list[str] = []
    cache = TensorCache(tmp_path, told.append)

    def sense(fingerprint: str) -> EncoderSense:
        return EncoderSense(
            lab.text.tokenizers[0],
            lab.text.text_encoders[0],
            classes=CLASSES,
            rare=lab.rare,
            cache=cache,
            fingerprint=fingerprint,
            notice=told.append,
        )

    first, again = sense("one"), sense("one")
    assert len(told) == 1
    assert first.measure(["fox"]) == again.measure(["fox"])
    sense("another")
    assert len(told) == 2


def test_the_encoder_that_makes_most_of_a_word_counts() -> None:
    little, much = Meaning(0.1, 0.5, 0.1, ()), Meaning(0.9, 1.0, 1.0, ("dog",))
    untold = Meaning(None, 0.0, 0.0, ())
    assert strongest([little, much]) == strongest([untold, much]) == much
    assert strongest([untold, untold]).share is None


def test_a_word_is_read_like_such_alone_as_move_the_sentence(lab: TriggerLab) -> None:
    (sense,) = lab.senses("dog")
    named = [sense.words[int(index)] for index in sense.calibration.means]
    assert "fox" in named
    assert min(found.moves for found in sense.measure(named)) >= 0.99 * LEAST_MOVE
