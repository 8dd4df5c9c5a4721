"""What the base model knows: one short name for each emoji label.

Concrete things that look alike in both styles and unlike each other at 64 pixels. Where an animal
has a face and a body, the face is taken, for it is larger.
"""

_SAME = """
fox|lion|unicorn|zebra|giraffe|bear|panda|chicken|bird|penguin|owl|frog|turtle|dragon|fish|shark|
octopus|butterfly|rose|sunflower|tulip|palm tree|cactus|mushroom|grapes|watermelon|lemon|banana|
pineapple|red apple|green apple|peach|cherries|strawberry|tomato|avocado|carrot|broccoli|pancakes|
hamburger|french fries|pizza|hot dog|egg|ice cream|doughnut|lollipop|house|bus|tractor|sailboat|
anchor|rainbow|star|fire|balloon|trophy|basketball|christmas tree|crown|top hat|backpack|bell|
guitar|light bulb|green book|ghost|alien|skull|green heart|blue heart|red heart
"""

_RENAMED = {
    "monkey": "monkey face",
    "dog": "dog face",
    "cat": "cat face",
    "tiger": "tiger face",
    "cow": "cow face",
    "pig": "pig face",
    "rabbit": "rabbit face",
    "chick": "baby chick",
    "dinosaur": "sauropod",
    "whale": "spouting whale",
    "bee": "honeybee",
    "ladybug": "lady beetle",
    "pine tree": "evergreen tree",
    "tree": "deciduous tree",
    "clover": "four leaf clover",
    "orange": "tangerine",
    "cheese": "cheese wedge",
    "fried egg": "cooking",
    "cake": "shortcake",
    "beer": "beer mug",
    "car": "automobile",
    "ufo": "flying saucer",
    "sun": "sun with face",
    "moon": "crescent moon",
    "snowman": "snowman without snow",
    "gift": "wrapped gift",
    "football": "soccer ball",
    "pumpkin": "jack-o-lantern",
    "shirt": "t-shirt",
    "diamond": "gem stone",
    "red book": "closed book",
    "clown": "clown face",
    "smiling face": "grinning face",
    "crying face": "crying face",
    "sunglasses face": "smiling face with sunglasses",
}

_names = [name.strip() for name in _SAME.replace("\n", "").split("|")]
SUBJECTS: dict[str, str] = {name: name for name in _names} | _RENAMED
"""Name in captions → emoji label, about 110 of them."""
