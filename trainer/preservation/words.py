"""Things of many kinds: what an adapter must not draw into.

None is among the things that `trainer.evaluation` measures, so that what is measured was not
preserved.
"""

from __future__ import annotations

OTHERS: dict[str, tuple[str, ...]] = {
    "animals": (
        "bear", "cat", "cow", "dog", "donkey", "fox", "gorilla", "hamster", "horse", "kangaroo",
        "koala", "lion", "monkey", "mouse", "panda", "pig", "puppy", "rabbit", "raccoon", "tiger",
    ),
    "birds": ("bird", "chick", "crow", "dove", "penguin", "pigeon", "turkey"),
    "small animals": ("dolphin", "fish", "frog", "seal", "snake", "spider", "whale"),
    "vehicles": (
        "ambulance", "bicycle", "boat", "car", "fire engine", "helicopter", "scooter", "ship",
        "taxi", "tram", "van", "wheel",
    ),
    "food": (
        "apple", "bread", "broccoli", "cheese", "cherries", "chocolate", "cookie", "corn", "egg",
        "french fries", "grapes", "hamburger", "lemon", "mango", "onion", "orange", "pancakes",
        "peach", "pear", "pizza", "pumpkin", "sandwich", "watermelon",
    ),
    "plants": ("flower", "leaf", "rose", "tree"),
    "people": ("child", "clown", "face", "man", "woman"),
    "clothes": ("dress", "glasses", "necklace", "ring", "shoe", "suitcase"),
    "beings of tales": ("robot",),
    "household": (
        "anchor", "balloon", "basketball", "bed", "camera", "candle", "chair", "diamond", "door",
        "football", "gift", "guitar", "hammer", "heart", "kite", "laptop", "light bulb", "pencil",
        "scissors", "sword", "table", "telephone", "television", "tent", "trophy", "trumpet",
        "umbrella", "violin", "watch",
    ),
    "buildings": ("city", "house", "window"),
    "places": ("beach", "cloud", "fire", "garden", "mountain", "star", "street", "sun"),
}  # fmt: skip
"""By the kinds of `trainer.evaluation.things`."""

OTHER_SUBJECTS: tuple[str, ...] = tuple(thing for things in OTHERS.values() for thing in things)

STAND_INS: tuple[str, ...] = ("sks", "ohwx", "zwx", "bnha", "qxv", "vnty", "hjx", "olis")
"""Words that hardly mean anything: what any rare word is to the model, but for the trigger."""
