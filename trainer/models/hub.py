"""The Hugging Face hub: a base model from it, only safetensors and texts; and files to it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from trainer.errors import UserError
from trainer.models.diffusers_folder import variant_rank
from trainer.models.families import FAMILIES

TIMEOUT_SECONDS = 4.0
"""For the first answer of the hub; the download itself may take as long as it takes."""

_TEXTS = ("model_index.json", "scheduler/*.json", "tokenizer*/*.json", "tokenizer*/*.txt")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_ELSE = "or give a folder or a .safetensors file."


def cached_snapshot(repository: str) -> Path | None:
    """The folder of an earlier download, whole or not; never asks the network."""
    try:
        return Path(huggingface_hub.snapshot_download(repository, local_files_only=True))
    except (OSError, ValueError):
        return None


def download(repository: str) -> Path:
    """Downloads a diffusers model into the hub's own cache and returns its folder.

    Raises:
        UserError: no network, no such model, no access, or no safetensors weights.
    """
    try:
        info = HfApi().model_info(repository, timeout=TIMEOUT_SECONDS)
        wanted = choose_files([file.rfilename for file in info.siblings or []])
        return Path(
            huggingface_hub.snapshot_download(repository, revision=info.sha, allow_patterns=wanted)
        )
    except UserError:
        raise
    except Exception as problem:  # its HTTP client's are not ours to name; all mean "no network"
        raise _refusal(repository, problem) from None


def _refusal(repository: str, problem: Exception) -> UserError:
    first = (str(problem) or type(problem).__name__).strip().splitlines()[0][:200]
    absent = f"There is no folder or file {repository}"
    match problem:
        case GatedRepoError():
            said = f"{repository} on the Hugging Face hub asks you to accept its conditions first."
            hint = f"Accept them at huggingface.co/{repository}, then log in with: hf auth login"
        case RepositoryNotFoundError():
            said = f"{absent}, and no such model on the Hugging Face hub."
            hint = "Check the spelling; a private model needs: hf auth login"
        case OfflineModeIsEnabled():
            said = f"{repository} has not been downloaded, and HF_HUB_OFFLINE forbids it."
            hint = f"Unset HF_HUB_OFFLINE, {_ELSE}"
        case HfHubHTTPError():
            said = f"The Hugging Face hub refused {repository}: {first}"
            hint = f"Try again later, {_ELSE}"
        case OSError(errno=errno.ENOSPC):
            said = f"The disk is full: {repository} does not fit."
            hint = "Make room, or set HF_HOME to a folder on another disk."
        case _:
            said = f"{absent}, and the Hugging Face hub cannot be reached ({first})."
            hint = f"Connect to the network once, {_ELSE}"
    return UserError(said, hint)


def choose_files(names: Sequence[str]) -> list[str]:
    """The files of a repository that a base model needs: no pickles, no code, no doubles.

    Of each part, the safetensors of no variant; where there are none, those of one variant.
    """
    chosen = [name for name in names if any(fnmatchcase(name, text) for text in _TEXTS)]
    for part in FAMILIES["sdxl"].parts:
        chosen += [name for name in names if name == f"{part}/config.json"]
        weights = [
            name
            for name in names
            if fnmatchcase(name, f"{part}/*.safetensors*") and name.count("/") == 1
        ]
        variants = {_variant(name) for name in weights}
        first = "" if "" in variants else min(variants, key=variant_rank, default="")
        chosen += [name for name in weights if _variant(name) == first]
    if not any(name.endswith(".safetensors") for name in chosen):
        raise UserError(
            "This model has no safetensors weights in diffusers' layout on the Hugging Face hub.",
            "Only safetensors are read, since other formats can run code: choose another model, "
            "or download its single .safetensors file and give that.",
        )
    return sorted(chosen)


def _variant(name: str) -> str:
    """What lies between stem and suffix: fp16 of x.fp16.safetensors and its sharded spellings."""
    middle = name.rsplit("/", 1)[-1].split(".")[1:-1]
    words = [word.split("-")[0] for word in middle if word not in ("safetensors", "index")]
    return words[0] if words else ""


def upload(repository: str, files: Mapping[str, bytes], token: str, public: bool) -> str:
    """Uploads files in one commit; returns the address.

    Args:
        repository: made where it is not there.
        token: of the user's; empty: the one that ``hf auth login`` or HF_TOKEN keeps. It is
            neither stored nor said.

    Raises:
        UserError: the name is none, there is no token, or the hub refuses.
    """
    if not _NAME.fullmatch(repository):
        said = f"“{repository}” is no name on the hub." if repository else "It has no name yet."
        raise UserError(said, "Write it as OWNER/NAME, such as yourname/my-car.")
    token = token.strip() or huggingface_hub.get_token() or ""
    if not token:
        raise UserError(
            "The hub needs a token of yours that may write.",
            "Make one at huggingface.co/settings/tokens, and give it here, as HF_TOKEN, or once "
            "with: hf auth login",
        )
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    try:
        address = str(api.create_repo(repository, private=not public, exist_ok=True))
        if not public and not api.model_info(repository).private:
            raise UserError(
                f"{repository} is there already, and is public: nothing was uploaded.",
                "Choose another name, or say that it shall be public.",
            )
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        api.create_commit(repository, operations, commit_message="Publish an adapter")
    except UserError:
        raise
    except Exception as problem:  # its HTTP client's are not ours to name
        first = (str(problem) or type(problem).__name__).strip().splitlines()[0][:200]
        raise UserError(
            f"The hub did not take it: {first.replace(token, '…')}",
            "Check the name, that the token may write there, and the network. What was uploaded "
            "before this may be there.",
        ) from None
    return address
