"""What a word means to a text encoder, measured against known words and against nonsense.

Four signals: how far a word alone moves a sentence from where rare entries leave it, how far it
moves one with a class word, how far its embedding lies from those of rare entries, and how near
it lies to embeddings of known words. None of them has a scale of its own, so that each is
calibrated on the encoder at hand: 0 is the median of rare entries, 1 that of everyday words. A
signal weighs what it can tell of the two, so that an untrained encoder tells nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import Embedding
from transformers import CLIPTokenizer

from trainer.data.cache import TensorCache, content_key
from trainer.models.base import TextEncoder
from trainer.models.text import longest_prompt
from trainer.triggers.reference import EVERYDAY, READABLE

CLASSES = ("dog", "car", "house")  # class words of the sentences where the user names none
TELLS = 0.8
"""A signal counts where everyday words exceed rare entries in more than this share of all pairs,
and fully where they do in all."""
NEIGHBOURS = 5
MOST_COMPARED = 5  # words of more pieces have no nonsense of their length to be compared with
BATCH = 64
READS_LIKE = 3
LEAST_MOVE = 0.25
"""Of what everyday words move a sentence: with less, a word has no direction to be read like."""
_RULES = 4


@dataclass(frozen=True)
class Meaning:
    """What one word means to a base model's text encoders."""

    # 0 as little as rare entries, 1 as much as everyday words; None where the encoder is untrained,
    # and tells no difference.
    share: float | None
    # Share of rare entries that mean less, 0 to 1; for a word of several pieces, of nonsense of as
    # many.
    rank: float
    # How far it moves "a photo of {word}" from where rare entries leave it, relative to everyday
    # words.
    moves: float
    # Known words that move a sentence in the same direction, nearest first.
    reads_like: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """Everyday words and rare entries as one encoder sees them."""

    # (1 + C, D) states of the sentences without the word: of that with nothing else, where rare
    # entries leave it on average.
    plain: Tensor
    middle: Tensor  # (E,) mean embedding of the rare entries
    # zero, one: (4,) medians of the signals: rare entries, everyday words.
    zero: Tensor
    one: Tensor
    # (4, 2) medians of the first two signals for nonsense of 2 to 5 pieces, which moves a sentence
    # by its length alone.
    nonsense: Tensor
    weights: Tensor  # (4,) how well a signal tells them apart, 0 to 1
    known: Tensor  # (K, E) normalised embeddings of known words that are one piece
    # (5, Q) quantiles of the shares of rare entries, and of nonsense of 2 to 5 pieces.
    ranks: Tensor = field(default_factory=lambda: torch.empty(0))
    # (R, (1 + C)·D) normalised shifts of the known words that mean something here.
    directions: Tensor = field(default_factory=lambda: torch.empty(0))
    # (R,) which of the known words these are.
    means: Tensor = field(default_factory=lambda: torch.empty(0))
    # Cosine that rare entries hardly ever reach with any known word.
    direction_level: Tensor = field(default_factory=lambda: torch.tensor(1.0))

    def shares(self, signals: Tensor, counts: Tensor) -> Tensor:
        """Signals to shares, as `Meaning` has them.

        Args:
            signals: (N, 4), NaN where one does not apply.
            counts: (N,) how many pieces each word has.

        Returns:
            (N,), NaN where no signal tells.
        """
        zero = self.zero.expand_as(signals).clone()
        several = counts > 1
        zero[several, :2] = self.nonsense[counts[several].clamp(max=MOST_COMPARED) - 2]
        scale = (self.one - self.zero).expand_as(signals)
        scaled = ((signals - zero) / scale).clamp(-1, 2)
        weights = torch.where(scaled.isnan(), 0.0, self.weights)
        return (weights * scaled.nan_to_num(0.0)).sum(dim=1) / weights.sum(dim=1)

    def rank(self, shares: Tensor, counts: Tensor) -> Tensor:
        """(N,) share of rare entries, or of nonsense of as many pieces, that mean less."""
        quantiles = self.ranks[counts.clamp(1, MOST_COMPARED) - 1]  # (N, Q)
        below = torch.searchsorted(quantiles, shares.nan_to_num(0.0)[:, None])[:, 0]
        return below / quantiles.shape[1]


class EncoderSense:
    """One text encoder and its calibration for some class words.

    Args:
        rare: vocabulary entries that no word list knows.
        fingerprint: of the text encoders' weights, the cache's key.
        notice: is told before the calibration, which takes seconds.
    """

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        encoder: TextEncoder,
        *,
        classes: Sequence[str],
        rare: Sequence[str],
        cache: TensorCache,
        fingerprint: str,
        notice: Callable[[str], None],
    ) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.classes = ("", *classes)
        table = cast(Embedding, encoder.get_input_embeddings())
        self.embedding = table.weight.detach().float().cpu()
        self.words = tuple(dict.fromkeys(EVERYDAY + READABLE))
        key = content_key(
            fingerprint=fingerprint,
            width=int(self.embedding.shape[1]),
            classes=list(classes),
            words=self.words,
            rare=list(rare),
            rules=_RULES,
        )

        def calibrate() -> dict[str, Tensor]:
            notice("Measuring what words mean to this text encoder; the result is kept …")
            return vars(self._calibrate(rare))

        self.calibration = Calibration(**cache.get_or_make(key, calibrate))

    @property
    def tells(self) -> bool:
        """Whether this encoder tells everyday words from rare entries at all."""
        return bool(self.calibration.weights.any())

    def measure(self, words: Sequence[str]) -> list[Meaning]:
        """What each word means to this encoder."""
        if not words:
            return []
        calibration, counts = self.calibration, self.piece_counts(words)
        shifts = self._shifts(words, calibration.plain)
        signals = self._signals(words, shifts, calibration.middle, calibration.known)
        shares = calibration.shares(signals, counts)
        ranks = calibration.rank(shares, counts)
        return [
            Meaning(
                share=float(shares[index]) if self.tells else None,
                rank=float(ranks[index]),
                moves=float(signals[index, 0] / calibration.one[0].clamp_min(1e-9)),
                reads_like=self._reads_like(word, shifts[index]),
            )
            for index, word in enumerate(words)
        ]

    def vectors(self, words: Sequence[str]) -> Tensor:
        """(N, E + (1 + C)·D): embedding and shift, each of length 1, to compare words by."""
        calibration = self.calibration
        embedded = torch.empty(len(words), self.embedding.shape[1])
        for index, word in enumerate(words):
            embedded[index] = self.embedding[self._ids(word)].mean(0) - calibration.middle
        shifts = self._shifts(words, calibration.plain)
        return torch.cat([_normalised(embedded), _normalised(shifts)], dim=1)

    def piece_counts(self, words: Sequence[str]) -> Tensor:
        """(N,) how many vocabulary entries each word is made of."""
        return torch.tensor([len(self._ids(word)) for word in words])

    def states(self, prompts: Sequence[str]) -> Tensor:
        """(N, D) last hidden states at the end of each prompt.

        Attention is causal, so that nothing has to be padded to 77 tokens.
        """
        found: list[Tensor] = []
        device, longest = self.encoder.device, longest_prompt(self.tokenizer)
        for start in range(0, len(prompts), BATCH):
            batch = list(prompts[start : start + BATCH])
            rows = self.tokenizer(batch, truncation=True, max_length=longest)["input_ids"]
            width = max(map(len, rows))
            padded = [row + [row[-1]] * (width - len(row)) for row in rows]
            with torch.inference_mode():
                hidden = self.encoder(torch.tensor(padded, device=device)).last_hidden_state
            ends = torch.tensor([len(row) - 1 for row in rows], device=device)
            found.append(hidden[torch.arange(len(rows), device=device), ends].float().cpu())
        return torch.cat(found).clone()

    def _shifts(self, words: Sequence[str], plain: Tensor) -> Tensor:
        """(N, (1 + C)·D): how "a photo of {word}" and "a photo of {word} {class}" differ from
        their plain states."""
        if not words:
            return torch.empty(0, plain.numel())
        prompts = [f"a photo of {word} {name}".strip() for word in words for name in self.classes]
        states = self.states(prompts).reshape(len(words), len(self.classes), -1)
        return (states - plain).flatten(1)

    def _reads_like(self, word: str, shift: Tensor) -> tuple[str, ...]:
        calibration = self.calibration
        if not self.tells or not len(calibration.directions):
            return ()
        cosines = calibration.directions @ _normalised(shift)
        first = cosines.argsort(descending=True)[: READS_LIKE + 3]
        order = cast("list[int]", first.tolist())
        near = [
            self.words[int(calibration.means[index])]
            for index in order
            if cosines[index] > calibration.direction_level
        ]
        spelled = word.lower().split()
        return tuple(name for name in near if name not in spelled)[:READS_LIKE]

    def _calibrate(self, rare: Sequence[str]) -> Calibration:
        """Measures everyday words, rare entries and nonsense: the scale of each signal."""
        alone = self.states([f"a photo of {word}" for word in rare]).mean(0)
        with_class = self.states([f"a photo of {name}" for name in self.classes[1:]])
        plain = torch.cat([alone[None], with_class])
        middle = self._embedded(rare).mean(0)
        known = _normalised(self._embedded(self.words) - middle)

        def signals_of(words: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
            shifts = self._shifts(words, plain)
            return shifts, self._signals(words, shifts, middle, known), self.piece_counts(words)

        shifts, signals, counts = signals_of(self.words)
        rare_shifts, rare_signals, rare_counts = signals_of(rare)
        _, nonsense_signals, nonsense_counts = signals_of(nonsense_words())
        everyday = signals[: len(EVERYDAY)]
        zero, one = rare_signals.nanmedian(0).values, everyday.nanmedian(0).values

        def of_each_length(
            values: Tensor, summary: Callable[[Tensor], Tensor], other: Tensor
        ) -> Tensor:
            """(4, …) the summary of nonsense of 2 to 5 pieces; `other` where there is none."""
            parts = [values[nonsense_counts == count] for count in range(2, MOST_COMPARED + 1)]
            return torch.stack([summary(part) if len(part) else other for part in parts])

        found = Calibration(
            plain=plain,
            middle=middle,
            zero=zero,
            one=one,
            nonsense=of_each_length(
                nonsense_signals[:, :2], lambda part: part.median(0).values, zero[:2]
            ),
            weights=_weights(everyday, rare_signals),
            known=known,
        )
        means_much = found.shares(signals, counts) >= 0.5
        # A known word that leaves the sentence as it is points where any word does.
        means = (means_much & (signals[:, 0] >= LEAST_MOVE * one[0])).nonzero().flatten()
        directions = _normalised(shifts[means])
        reached = (_normalised(rare_shifts) @ directions.T).flatten()
        level = reached.quantile(0.99) if len(reached) else torch.tensor(1.0)
        single = _quantiles(found.shares(rare_signals, rare_counts))
        longer = found.shares(nonsense_signals, nonsense_counts)
        return replace(
            found,
            ranks=torch.cat([single[None], of_each_length(longer, _quantiles, single)]),
            directions=directions,
            means=means,
            direction_level=level.clamp_min(0.5),
        )

    def _signals(
        self, words: Sequence[str], shifts: Tensor, middle: Tensor, known: Tensor
    ) -> Tensor:
        """(N, 4): shifts of the sentence alone and with class words, distance of the embedding,
        nearness to known embeddings.

        The last two are NaN for words of several pieces: single letters and the like occur in
        so many words that their embeddings say nothing of this one.
        """
        by_class = shifts.reshape(len(words), len(self.classes), -1)
        moved = cast(Tensor, by_class.norm(dim=2))
        rows = torch.full((len(words), 4), torch.nan)
        rows[:, 0] = moved[:, 0]
        rows[:, 1] = moved[:, 1:].mean(1)
        for index, word in enumerate(words):
            ids = self._ids(word)
            if len(ids) == 1:
                vector = self.embedding[ids[0]] - middle
                cosines = known @ _normalised(vector)
                others = cosines[cosines < 0.9999].topk(min(NEIGHBOURS, len(known) - 1)).values
                rows[index, 2] = vector.norm()
                rows[index, 3] = others.mean()
        return rows

    def _embedded(self, words: Sequence[str]) -> Tensor:
        """(K, E) embeddings of those words that are one piece."""
        ids = [self._ids(word) for word in words]
        return self.embedding[[one[0] for one in ids if len(one) == 1]]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def nonsense_words() -> list[str]:
    """Strings of three to eight letters by a fixed rule, which hardly any text contains."""
    source = random.Random(1)
    return ["".join(source.choices("bcdfghjklmnpqrstvwxyz", k=3 + n % 6)) for n in range(240)]


def strongest(meanings: Sequence[Meaning]) -> Meaning:
    """The meaning to several encoders: that of the one to which it means most."""
    return max(meanings, key=lambda one: -1.0 if one.share is None else one.share)


def _weights(everyday: Tensor, rare: Tensor) -> Tensor:
    """(4,) how far everyday words exceed rare entries in more than `TELLS` of all pairs."""
    shares: list[Tensor] = []
    for column in range(everyday.shape[1]):
        high, low = (part[~part.isnan()] for part in (everyday[:, column], rare[:, column]))
        pairs = (high[:, None] > low[None, :]).float()
        shares.append(pairs.mean() if pairs.numel() else torch.tensor(0.5))
    return ((torch.stack(shares) - TELLS) / (1 - TELLS)).clamp_min(0.0)


def _quantiles(shares: Tensor) -> Tensor:
    """(100,) the shares at every hundredth."""
    return shares.nan_to_num(0.0).quantile(torch.linspace(0.005, 0.995, 100))


def _normalised(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
