"""Does a caption name a category? By the word, its plural, or one of the words listed here."""

import re
from functools import lru_cache

UNNAMED = "object"  # what masks without classes are called: no caption is expected to name it

WORDS = {
    "person": (
        "man, woman, boy, girl, guy, lady, gentleman, male, female, child, kid, baby, "
        "toddler, adult, player, rider, skier, surfer, skater, skateboarder, snowboarder, "
        "cyclist, biker, batter, pitcher, catcher, umpire, pedestrian, passenger, driver, "
        "officer, policeman, worker, chef, bride, groom, couple, family, crowd, team, "
        "someone, people, men, women, children, policemen"
    ),
    "bicycle": "bike, cycle",
    "car": "vehicle, taxi, cab, automobile, suv, van, sedan",
    "motorcycle": "motorbike, bike, scooter, moped, motor cycle",
    "airplane": "plane, jet, aircraft, airliner, biplane, aeroplane",
    "bus": "vehicle",
    "train": "locomotive, engine, tram, trolley, subway",
    "truck": "vehicle, lorry, pickup, van, trailer",
    "boat": "ship, canoe, kayak, sailboat, ferry, vessel, yacht, raft",
    "traffic light": "stoplight, traffic signal, stop light, street light, signal",
    "fire hydrant": "hydrant",
    "stop sign": "sign",
    "parking meter": "meter",
    "bench": "seat",
    "bird": (
        "duck, goose, geese, seagull, gull, pigeon, parrot, owl, swan, eagle, chicken, "
        "rooster, hen, peacock, pelican, ostrich, hawk, crow, flamingo"
    ),
    "cat": "kitten, kitty",
    "dog": "puppy, pup",
    "horse": "pony, foal",
    "sheep": "lamb, ram, ewe, goat",
    "cow": "cattle, bull, calf, calves, ox, oxen, steer",
    "bear": "cub",
    "backpack": "bag, pack, rucksack, back pack",
    "umbrella": "parasol",
    "handbag": "bag, purse",
    "tie": "necktie, bow tie, bowtie",
    "suitcase": "luggage, bag, baggage, briefcase",
    "frisbee": "disc, disk",
    "skis": "ski",
    "snowboard": "board",
    "sports ball": "ball, baseball, football, basketball, soccer, volleyball",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt",
    "skateboard": "board",
    "surfboard": "board, surf board",
    "tennis racket": "racket, racquet",
    "wine glass": "glass, wine",
    "cup": "mug, glass, coffee",
    "knife": "knives",
    "bowl": "dish",
    "sandwich": "burger, hamburger, sub, panini",
    "hot dog": "hotdog, sausage",
    "donut": "doughnut, pastry",
    "cake": "cupcake, dessert",
    "chair": "seat, armchair, stool",
    "couch": "sofa, loveseat",
    "potted plant": "plant, flower, tree, pot",
    "dining table": "table, desk",
    "tv": "television, monitor, screen",
    "laptop": "computer, notebook",
    "mouse": "mice",
    "remote": "controller, wii, wiimote",
    "cell phone": "phone, cellphone, smartphone, iphone",
    "oven": "stove",
    "sink": "basin",
    "refrigerator": "fridge, freezer",
    "clock": "clocktower, watch",
    "vase": "pot, jar",
    "teddy bear": "teddy, stuffed animal, stuffed bear, toy, bear",
    "hair drier": "hair dryer, dryer, hairdryer, blow dryer",
}
"""Other words for COCO's categories, and plurals that no rule gives."""


def names(category: str, caption: str) -> bool:
    """Whether a caption has the category, or one of its other words, as a whole word."""
    return bool(_pattern(category).search(caption.lower()))


@lru_cache(1024)
def _pattern(category: str) -> re.Pattern[str]:
    others = WORDS.get(category.lower())
    words = [category.lower(), *(others.split(", ") if others else ())]
    forms = {form for word in words for form in (word, _plural(word))}
    return re.compile(rf"\b(?:{'|'.join(re.escape(form) for form in sorted(forms))})\b")


def _plural(word: str) -> str:
    """The regular plural; of a phrase, that of its last word."""
    if re.search("(s|x|z|ch|sh)$", word):
        return f"{word}es"
    if re.search("[^aeiou]y$", word):
        return f"{word[:-1]}ies"
    return f"{word}s"
