"""Real words that others are compared with.

`EVERYDAY` are plain things that any base model knows, the built-in one included: what a known
word does to a sentence is measured on them. `READABLE` are further words that a rare one may turn
out to read like: people, places, things, animals, styles and materials.
"""

_EVERYDAY = """
fox lion zebra giraffe bear panda chicken bird penguin owl frog turtle dragon fish shark
octopus butterfly rose tulip cactus mushroom grapes watermelon lemon banana pineapple peach
strawberry tomato avocado carrot broccoli hamburger pizza egg house bus tractor sailboat anchor
rainbow star fire balloon trophy basketball crown backpack bell guitar ghost alien skull heart
monkey dog cat tiger cow pig rabbit dinosaur whale bee tree orange cheese cake beer car sun moon
snowman gift football pumpkin shirt diamond clown apple unicorn sunflower
"""

_READABLE = """
man woman boy girl baby child king queen prince princess soldier police doctor nurse teacher
actor singer dancer athlete wizard witch vampire zombie angel devil robot superhero pirate ninja
samurai knight viking cowboy bride president pope monk priest student chef farmer
face eye hand hair beard smile tattoo mask glasses hat helmet jacket dress suit shoe boot sock
glove ring necklace watch handbag jeans uniform armour kimono bikini
horse elephant wolf deer sheep goat duck goose swan eagle parrot peacock crow snake lizard
crocodile spider ant beetle snail crab lobster squid dolphin seal hamster mouse rat squirrel
hedgehog bat kangaroo koala gorilla camel donkey leopard puppy kitten poodle corgi insect
flower leaf grass forest jungle garden bush vine palm pine bamboo
mountain river lake ocean beach island desert volcano waterfall cave sky cloud storm snow rain
lightning fog sunset sunrise night galaxy planet space rocket satellite
city street road bridge tower castle church temple mosque palace skyscraper cottage farm factory
school hospital hotel restaurant museum library stadium airport station harbour prison tunnel
kitchen bedroom bathroom office door window wall stairs roof
truck van train tram bicycle motorcycle scooter aeroplane helicopter boat ship submarine yacht
tank ambulance taxi jeep
rifle gun pistol sword knife axe bow arrow shield bomb cannon grenade
chair table sofa bed lamp mirror clock vase candle bottle cup mug bowl plate fork spoon pan
basket box bag suitcase umbrella book newspaper letter map card coin money key lock rope chain
hammer saw screwdriver drill shovel broom brush bucket ladder
computer laptop phone camera television radio keyboard screen speaker headphones console
piano violin drum trumpet flute saxophone microphone
ball racket skateboard surfboard ski bat goal chess dice doll puppet kite toy teddy
bread rice soup salad steak sausage bacon pasta noodles sushi taco sandwich pie cookie chocolate
candy honey butter milk coffee tea wine juice water onion garlic potato corn pepper cucumber
cherry pear plum mango coconut
red green blue yellow purple pink black white brown gray gold silver
wood metal glass stone marble leather paper plastic wool silk concrete ceramic
painting drawing sketch cartoon anime manga comic photograph poster logo sculpture statue
graffiti watercolor collage mosaic pixel emoji
wedding party concert parade funeral war battle protest christmas halloween easter birthday
football soccer baseball tennis hockey golf boxing wrestling rugby cricket swimming running yoga
london paris tokyo moscow berlin venice egypt india china japan america africa canada texas
florida california hollywood
love death music dance sleep dream magic science medicine law politics religion sport fashion
weather traffic business school news advertisement
"""

EVERYDAY: tuple[str, ...] = tuple(_EVERYDAY.split())
READABLE: tuple[str, ...] = tuple(_READABLE.split())
RUDE: tuple[str, ...] = (
    *("bitch", "fuck", "shit", "cunt", "dick", "cock", "pussy", "bastard", "whore", "slut"),
    *("nigger", "nigga", "faggot", "wank", "twat", "asshole", "bollocks", "jizz", "tits", "porn"),
    *("dildo", "penis", "vagina", "bullshit", "motherfucker", "blowjob", "hentai"),
)
"""Known by their consonants too."""
