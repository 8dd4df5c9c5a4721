"""Kinds of things, and what is like what.

None of the things is among those that training preserves (`trainer.preservation`), so that what is
measured is what training did not preserve.
"""

from __future__ import annotations

# For each kind: class words that belong to it, and things of that kind to measure.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "animals": (
        ("animal", "dog", "puppy", "cat", "kitten", "bear", "teddy bear", "panda", "rabbit",
         "bunny", "horse", "pony", "cow", "pig", "fox", "lion", "tiger", "monkey", "mouse", "rat",
         "hamster", "creature", "pet", "toy"),
        ("giraffe", "zebra", "wolf", "elephant", "deer", "goat", "sheep", "camel", "squirrel"),
    ),
    "vehicles": (
        ("vehicle", "car", "boat", "ship", "bicycle", "bike", "van", "helicopter"),
        ("bus", "tractor", "truck", "train", "sailboat", "airplane", "motorcycle", "rocket"),
    ),
    "birds": (
        ("bird", "penguin", "peacock", "hen", "rooster", "pigeon"),
        ("owl", "duck", "eagle", "parrot", "chicken", "swan", "flamingo"),
    ),
    "food": (
        ("food", "fruit", "vegetable", "meal", "apple", "bread", "hamburger", "lemon", "pizza"),
        ("banana", "strawberry", "doughnut", "carrot", "pineapple", "cake", "tomato", "avocado"),
    ),
    "people": (
        ("person", "man", "woman", "human", "people", "face", "boy", "lady", "guy", "character"),
        ("girl", "baby", "doctor", "soldier", "pirate", "knight"),
    ),
    "plants": (
        ("plant", "flower", "tree", "rose", "leaf"),
        ("cactus", "tulip", "mushroom", "sunflower", "palm tree", "fern"),
    ),
    "small animals": (
        ("insect", "spider", "fish", "frog", "whale", "bug", "reptile"),
        ("butterfly", "octopus", "ladybug", "shark", "turtle", "bee", "snail", "lizard"),
    ),
    "buildings": (
        ("building", "house", "home", "room", "city", "architecture"),
        ("castle", "church", "barn", "lighthouse", "tower", "bridge"),
    ),
    "clothes": (
        ("clothes", "clothing", "dress", "shoe", "sneaker", "bag", "jewelry", "glasses"),
        ("hat", "shirt", "backpack", "crown", "jacket", "boot", "scarf"),
    ),
    "beings of tales": (
        ("monster", "robot", "doll", "figurine", "mascot"),
        ("dragon", "unicorn", "alien", "ghost", "snowman", "dinosaur", "skull"),
    ),
    "household": (
        ("object", "thing", "chair", "furniture", "watch", "umbrella", "vase", "mug", "can",
         "product", "guitar", "instrument"),
        ("book", "bell", "key", "lamp", "teapot", "clock", "piano", "bottle", "drum", "sofa"),
    ),
    "places": (
        ("place", "landscape", "scene", "mountain", "sun", "star", "sky", "view", "background"),
        ("moon", "rainbow", "river", "forest", "desert", "island", "volcano"),
    ),
    "pictures": (
        ("style", "art", "artwork", "painting", "drawing", "photo", "picture", "image", "emoji",
         "illustration", "sketch", "icon", "logo", "sticker"),
        ("cartoon", "watercolor", "sculpture", "poster", "mosaic", "engraving"),
    ),
}  # fmt: skip

THINGS: tuple[str, ...] = tuple(thing for _, things in KINDS.values() for thing in things)


def kind_of(word: str) -> str | None:
    """The kind that a class word belongs to; the last word decides ("police car" is a vehicle)."""
    lower = " ".join(word.lower().split())
    for text in (lower, lower.rpartition(" ")[2], lower.rpartition(" ")[2].removesuffix("s")):
        for kind, (words, things) in KINDS.items():
            if text and (text in words or text in things):
                return kind
    return None


def things_apart_from(kind: str | None, count: int) -> list[str]:
    """Things of other kinds, each of another, spread over the table."""
    others = [things for name, (_, things) in KINDS.items() if name not in (kind, "pictures")]
    return [others[place * len(others) // count][place % 3] for place in range(count)]
