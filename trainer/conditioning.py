"""Text features for training: of the adapter in training, and of the frozen model as teacher."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data.cache import TensorCache, content_key
from trainer.diffusion import TextConditioning, encode
from trainer.lora.attach import disabled
from trainer.memory.devices import Device
from trainer.models.base import BaseModel

TEXTS_IN_MEMORY = 512


class TextSource:
    """Conditioning of captions.

    Where the text encoders are trained, the student's features are computed in every step. The
    frozen model's features never change: they stay in memory for the texts used last, and on disk.

    Args:
        trained: whether the text encoders carry an adapter in training.
        device: where the features are wanted; encoders that wait elsewhere come there to compute.
    """

    def __init__(
        self, base: BaseModel, cache: TensorCache, *, trained: bool, device: Device
    ) -> None:
        self.base, self.cache, self.trained, self.device = base, cache, trained, device
        self._recent: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def student(self, texts: Sequence[str]) -> TextConditioning:
        """Features that training sees, (B, L, D); with gradients where the encoders train."""
        if not self.trained:
            return self.teacher(texts)
        return encode(self.base, texts, self.device.torch_device)

    def teacher(self, texts: Sequence[str]) -> TextConditioning:
        """Features of the frozen encoders, (B, L, D), without gradients."""
        missing = [text for text in dict.fromkeys(texts) if not self._recall(text)]
        if missing:
            self._compute(missing)
        found = [self._recent[text] for text in texts]
        while len(self._recent) > max(TEXTS_IN_MEMORY, len(texts)):
            self._recent.popitem(last=False)
        pooled = [features["pooled"] for features in found if "pooled" in features]
        text = TextConditioning.of([features["hidden"] for features in found], pooled or None)
        return text.to(self.device.torch_device)

    def _recall(self, text: str) -> bool:
        """Bring a text's features to the front of the memory, from there or from the disk."""
        if text not in self._recent:
            features = self.cache.get(self._key(text))
            if features is None:
                return False
            self._recent[text] = features
        self._recent.move_to_end(text)
        return True

    @torch.no_grad()
    def _compute(self, texts: Sequence[str]) -> None:
        """One by one: in a batch, the last bits would depend on what else was missing."""
        with disabled(self.base), self.device.reading(self.base):
            for text in texts:
                features = encode(self.base, [text], self.device.torch_device)
                tensors = {"hidden": features.hidden[0].cpu()}
                if features.pooled is not None:
                    tensors["pooled"] = features.pooled[0].cpu()
                self.cache.put(self._key(text), tensors)
                self._recent[text] = tensors

    def _key(self, text: str) -> str:
        dtype = str(self.base.text_encoders[0].dtype)
        return content_key(text=text, model=self.base.output_key, dtype=dtype)
