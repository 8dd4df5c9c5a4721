"""The words of the page, the command line and the docs, each explained once."""

from __future__ import annotations

from collections.abc import Mapping

GLOSSARY: Mapping[str, str] = {
    "Trigger word": "The rare word that calls what the pictures show: ohwx in “an ohwx car”.",
    "Class word": "The common word for that kind of thing: car, woman, watercolour.",
    "Base model": "The image model that learns: Stable Diffusion 1, 2, XL, or one made from them.",
    "Adapter": "What is learned, beside the base model; also called a LoRA. As a file it is "
    "adapter.safetensors, which other tools load.",
    "Strength": "How much of the adapter is used in drawing: 0 is none of it, 1 as trained.",
    "Rank": "How much an adapter can hold. 16 is enough for one subject; the file grows with it.",
    "Alpha": "A scale of the adapter: alpha divided by the rank. Equal to the rank unless given.",
    "Image set": "A folder of pictures with their captions and masks.",
    "Caption": "What a picture shows, in words. What is named there does not stick to the trigger "
    "word.",
    "Mask": "Which part of a picture counts in training.",
    "Bucket": "A shape that pictures are fitted to, such as upright 3:4, so that few are cut.",
    "Latents": "The small form of a picture that the base model works on.",
    "Step": "One look at a few pictures, and one small correction.",
    "Epoch": "As many steps as show every picture once.",
    "Run": "One training: a folder with all that belongs to it.",
    "Preview": "A picture that is drawn while training goes on, always by the same prompts.",
    "Checkpoint": "A saved step, from which a run can go on exactly. Drawing tools can't load it; "
    "they load an adapter file.",
    "Preservation": "Training at the same time on what must not change, so that the rest stays "
    "still.",
    "Validation split": "Pictures that are kept out of training, to see whether it learned the "
    "subject or the pictures.",
    "Likeness": "How much better the pictures are predicted with the trigger word than by the base "
    "model.",
    "Leak": "What of the subject shows although the trigger word is not in the prompt.",
    "Verdict": "Works, partly, not yet, leaks, overtrained, dead or wrong subject: what the drawn "
    "pictures and the numbers say together.",
}
"""Each word, and what it means, in the order in which they are shown."""


def glossary_page() -> str:
    """docs/glossary.md, in Markdown."""
    rows = [f"| **{word}** | {meaning} |" for word, meaning in GLOSSARY.items()]
    head = (
        "# Words\n\n<!-- Made by `python -m trainer.config.docs` from trainer/config/. -->\n\n"
        "The same stands below every tab of the page.\n\n| word | means |\n| --- | --- |\n"
    )
    return head + "\n".join(rows) + "\n"
