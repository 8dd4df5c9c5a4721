"""What a run teaches: one concept, or several in one adapter.

A concept is an image set with its trigger word and its class word. The configuration gives one by
``images.path``, ``captions.trigger`` and ``captions.class_word``, or several as ``[[concepts]]``;
`concepts_of` gives the list either way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.config.file import ConfigError, Mistake
from trainer.config.schema import CaptionsConfig, ConceptConfig, TrainingConfig
from trainer.errors import UserError
from trainer.text import name_subject

_SINGLE = ("images.path", "captions.trigger")


def concepts_of(config: TrainingConfig) -> tuple[ConceptConfig, ...]:
    """The concepts of a run, at least one; that of a run without a trigger has an empty one."""
    if config.concepts:
        return config.concepts
    words = config.captions
    return (
        # Not validated: a configuration may be looked at before it has a trigger.
        ConceptConfig.model_construct(
            path=config.images.path,
            trigger=words.trigger,
            class_word=words.class_word,
            repeats=1,
            loss_weight=1.0,
        ),
    )


def captions_of(config: TrainingConfig, concept: ConceptConfig) -> CaptionsConfig:
    """How the captions of a concept are made: the run's rules with the concept's words."""
    words = {"trigger": concept.trigger, "class_word": concept.class_word}
    return config.captions.model_copy(update=words)


def triggers_of(config: TrainingConfig) -> list[str]:
    """The trigger words of a run; none where it has none."""
    return [concept.trigger for concept in concepts_of(config) if concept.trigger]


def run_name(config: TrainingConfig) -> str:
    """What a run is called where nobody names its folder: its title, else its trigger words."""
    return config.output.name or "-".join(triggers_of(config))


def class_words_of(config: TrainingConfig) -> list[str]:
    """The class words of a run, each once."""
    words = [concept.class_word for concept in concepts_of(config) if concept.class_word]
    return list(dict.fromkeys(words))


def preserved_share(config: TrainingConfig) -> float:
    """Rows to preserve for each picture of a step that preserves; 0 where nothing is preserved.

    The base model's predictions are preserved so often for each concept: with the rows of one
    concept for two, one took over the other's pictures.
    """
    preservation = config.preservation
    if preservation.method == "none" or preservation.weight == 0:
        return 0.0
    concepts = len(concepts_of(config)) if preservation.method == "prediction" else 1
    return preservation.share * concepts


def subject_of(concept: ConceptConfig) -> str:
    """Trigger and class word, as a prompt calls the concept."""
    return name_subject(concept.trigger, concept.class_word)


def parse_concept(text: str) -> dict[str, str]:
    """``DIR:TRIGGER[:CLASS]`` of the command line, as a ``[[concepts]]`` table.

    A folder may have colons in its name (``C:\\bears:ohwx:bear``): the longest part that is a
    folder counts.

    Raises:
        UserError: it is not of this form.
    """
    splits = [parts for count in (1, 2) if len(parts := text.rsplit(":", count)) > count]
    found = next((parts for parts in splits if Path(parts[0]).is_dir()), text.split(":"))
    if len(found) in (2, 3):  # a missing folder is reported like any other
        folder, trigger, class_word = (*found, "")[:3]
        return {"path": folder, "trigger": trigger.strip(), "class_word": class_word.strip()}
    raise UserError(
        f"--concept {text} is not of the form DIR:TRIGGER or DIR:TRIGGER:CLASS.",
        "Write for example --concept datasets/teddy-and-peacock/teddy:ohwx:bear",
    )


def check_essentials(
    config: TrainingConfig, is_there: Callable[[Path], bool] = Path.exists, hint: str = ""
) -> None:
    """Sees to what every training needs: for each concept an image set and a trigger word, and
    the folder of scoring models where one is named.

    Args:
        is_there: whether a path may be read as an image set.
        hint: the way out, where these are given.

    Raises:
        ConfigError: all that is missing.
    """
    mistakes: list[Mistake] = []
    for concept in concepts_of(config):
        folder, trigger = ("concepts",) * 2 if config.concepts else _SINGLE
        if concept.path == Path():
            mistakes.append(Mistake(folder, "no image folder was given"))
        elif not is_there(concept.path):
            mistakes.append(Mistake(folder, f"the image folder {concept.path} does not exist"))
        if not concept.trigger.strip():
            mistakes.append(
                Mistake(trigger, "no trigger word was given; take a rare word such as ohwx")
            )
    if (scorers := config.evaluation.scorers) and not scorers.is_dir():
        mistakes.append(Mistake("evaluation.scorers", f"the folder {scorers} does not exist"))
    if mistakes:
        raise ConfigError("", mistakes, hint)
