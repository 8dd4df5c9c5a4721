"""Things of many kinds: what an adapter must not draw into.

None is among the things that `trainer.evaluation` measures, so that what is measured is what nobody
held in place.
"""

from __future__ import annotations

OTHER_SUBJECTS: tuple[str, ...] = (
    # animals
    "bear", "bird", "cat", "chick", "cow", "crow", "dog", "dolphin", "donkey", "dove", "fish",
    "fox", "frog", "gorilla", "hamster", "horse", "kangaroo", "koala", "lion", "monkey", "mouse",
    "panda", "penguin", "pig", "pigeon", "puppy", "rabbit", "raccoon", "seal", "snake", "spider",
    "tiger", "turkey", "whale",
    # vehicles
    "ambulance", "bicycle", "boat", "car", "fire engine", "helicopter", "scooter", "ship", "taxi",
    "tram", "van", "wheel",
    # food
    "apple", "bread", "broccoli", "cheese", "cherries", "chocolate", "cookie", "corn", "egg",
    "french fries", "grapes", "hamburger", "lemon", "mango", "onion", "orange", "pancakes",
    "peach", "pear", "pizza", "pumpkin", "sandwich", "watermelon",
    # plants
    "flower", "leaf", "rose", "tree",
    # people
    "child", "clown", "face", "man", "woman",
    # things
    "anchor", "balloon", "basketball", "bed", "camera", "candle", "chair", "diamond", "dress",
    "door", "football", "gift", "glasses", "guitar", "hammer", "heart", "kite", "laptop",
    "light bulb", "necklace", "pencil", "ring", "robot", "scissors", "shoe", "suitcase", "sword",
    "table", "telephone", "television", "tent", "trophy", "trumpet", "umbrella", "violin", "watch",
    # places and sky
    "beach", "city", "cloud", "fire", "garden", "house", "mountain", "star", "street", "sun",
    "window",
)  # fmt: skip

STAND_INS: tuple[str, ...] = ("sks", "ohwx", "zwx", "bnha", "qxv", "vnty", "hjx", "olis")
"""Words that hardly mean anything: what any rare word is to the model, but for the trigger."""
