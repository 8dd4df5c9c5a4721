"""What the base model knows: one short name for each emoji label.

Concrete things that look alike in both styles and unlike each other at 64 pixels. Where an animal
has a face and a body, the face is taken, for it is larger.

The first ones are learned alone for a while: words take hold of pictures sooner while they are few.
"""

_FIRST = """
fox|lion|unicorn|zebra|giraffe|bear|panda|chicken|bird|penguin|owl|frog|turtle|dragon|fish|shark|
octopus|butterfly|rose|sunflower|tulip|palm tree|cactus|mushroom|grapes|watermelon|lemon|banana|
pineapple|red apple|green apple|peach|cherries|strawberry|tomato|avocado|carrot|broccoli|pancakes|
hamburger|french fries|pizza|hot dog|egg|ice cream|doughnut|lollipop|house|bus|tractor|sailboat|
anchor|rainbow|star|fire|balloon|trophy|basketball|christmas tree|crown|top hat|backpack|bell|
guitar|light bulb|green book|ghost|alien|skull|green heart|blue heart|red heart
"""

_FIRST_RENAMED = {
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

_LATER = """
crab|lobster|squid|spider|duck|eagle|swan|bat|deer|gorilla|lizard|hedgehog|koala|elephant|kangaroo|snake|
crocodile|dolphin|jellyfish|seal|raccoon|snail|hamster|wolf|camel|coconut|mango|pear|melon|
blueberries|cucumber|potato|onion|garlic|bell pepper|eggplant|bread|croissant|bagel|pretzel|
sandwich|taco|burrito|popcorn|cookie|cupcake|candy|honey pot|bacon|sushi|teapot|wine glass|
cocktail glass|waffle|butter|pie|airplane|helicopter|ambulance|bicycle|ship|tent|castle|volcano|
umbrella|cloud|snowflake|key|hammer|scissors|pencil|paintbrush|camera|television|telephone|laptop|
alarm clock|watch|candle|chair|bed|bathtub|door|bucket|basket|broom|drum|trumpet|violin|saxophone|
accordion|baseball|boxing glove|kite|ring|glasses|hiking boot|running shoe|socks|scarf|gloves|
jeans|dress|handbag|feather|maple leaf|hibiscus|cherry blossom|seedling|potted plant|bomb|magnet|
microscope|telescope|compass|bone|tooth|puzzle piece|money bag|parachute|crystal ball|
skateboard|package|purple heart|yellow heart|black heart
"""

_LATER_RENAMED = {
    "mouse": "mouse face",
    "horse": "horse face",
    "kiwi": "kiwi fruit",
    "corn": "ear of corn",
    "chili": "hot pepper",
    "birthday cake": "birthday cake",
    "chocolate": "chocolate bar",
    "coffee": "hot beverage",
    "milk": "glass of milk",
    "train": "locomotive",
    "truck": "delivery truck",
    "scooter": "motor scooter",
    "lock": "locked",
    "piano": "musical keyboard",
    "tennis ball": "tennis",
    "rugby ball": "american football",
    "cap": "billed cap",
    "planet": "ringed planet",
    "yarn": "yarn",
}


def _same(names: str) -> dict[str, str]:
    """Names that are their emoji's labels."""
    return {name: name for name in names.replace("\n", "").split("|")}


FIRST: dict[str, str] = _same(_FIRST) | _FIRST_RENAMED
"""Those that are learned first, 107 of them."""
SUBJECTS: dict[str, str] = FIRST | _same(_LATER) | _LATER_RENAMED
"""Name in captions → emoji label, about 250 of them."""
