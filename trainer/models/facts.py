"""What can be said of a base model without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import CLIPTokenizer

from trainer.models.diffusers_folder import read_json
from trainer.models.families import Family
from trainer.models.identify import identify
from trainer.models.load import native_latent_side, tokenizer_folders


@dataclass(frozen=True)
class BaseFacts:
    """A base model by its configuration alone.

    Attributes:
        default_resolution: side in pixels of the squares that the UNet was trained on.
        resolution_step: sides of training pictures are multiples of this, in pixels.
        tokenizers: one for each text encoder.
    """

    family: Family
    default_resolution: int
    resolution_step: int
    tokenizers: list[CLIPTokenizer]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, start and end not counted; the greater number of two tokenizers."""
        return max(
            len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
            for tokenizer in self.tokenizers
        )


def read_facts(name: str) -> BaseFacts:
    """Recognise a base model and read its configuration, in well under a second.

    Raises:
        UserError: it cannot be found or recognised.
    """
    identity = identify(name)
    source = identity.family.config_folder(identity.prediction_type)
    if not identity.is_single_file:
        source = identity.path
    widths = read_json(source / "vae" / "config.json")["block_out_channels"]
    factor = 2 ** (len(widths) - 1)
    return BaseFacts(
        identity.family,
        native_latent_side(source) * factor,
        8 * factor,
        [CLIPTokenizer.from_pretrained(place) for place in tokenizer_folders(identity)],
    )
