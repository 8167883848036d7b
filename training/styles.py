"""The drawing styles: which options are drawn, and the words for what was drawn.

Every colour that is drawn has a name, and every shape that is drawn has a phrase, so that a
caption can be made from a portrait's attributes and is true of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["BACKGROUNDS", "CLOTHES", "HAIR", "SKIN", "STYLES", "Style"]

#: Colour names to hexadecimal RGB, as DiceBear's options take them.
BACKGROUNDS: Mapping[str, str] = {
    "light blue": "a4d6f7",
    "yellow": "ffe070",
    "pink": "ffb9d6",
    "green": "95db86",
    "purple": "c3a6f2",
    "orange": "ffb26b",
    "red": "f47c74",
    "teal": "62cdc1",
    "gray": "c5cad3",
    "dark blue": "33477c",
}
HAIR: Mapping[str, str] = {
    "black": "29242a",
    "brown": "74452f",
    "blond": "ecc95f",
    "red": "c93a24",
    "pink": "f26db1",
    "blue": "3b6be4",
    "green": "3ca652",
    "purple": "8549c7",
    "white": "f4f4f4",
}
CLOTHES: Mapping[str, str] = {
    "red": "dd3c4b",
    "blue": "3f69f2",
    "green": "3fa84c",
    "yellow": "f4c534",
    "purple": "8a52d2",
    "pink": "f55f9f",
    "black": "2b2b31",
    "white": "f0f0f0",
    "orange": "f58634",
}
SKIN: Mapping[str, str] = {
    "light": "f8d0b4",
    "tan": "dba276",
    "brown": "a96b45",
    "dark": "7d4f38",
}


@dataclass(frozen=True)
class Style:
    """A drawing style of ``@dicebear/collection``.

    Attributes:
        name: Its name in that package.
        word: Its name in captions.
        phrases: For each shape attribute, the phrase of every value that is drawn. ``{}`` stands
            for the colour's name; an empty phrase is drawn but not spoken of.
        colors: For each colour attribute, the palette (name to hexadecimal RGB).
        colored_by: Which colour attribute fills the ``{}`` of a shape attribute.
        worn: Shape attributes that a sentence introduces with "wearing".
        skin: Which colour attribute is the skin's.
        options: Further DiceBear options (scale, probabilities).
    """

    name: str
    word: str
    phrases: Mapping[str, Mapping[str, str]]
    colors: Mapping[str, Mapping[str, str]]
    colored_by: Mapping[str, str]
    worn: frozenset[str] = frozenset()
    skin: str = "skinColor"
    options: Mapping[str, object] = field(default_factory=dict)

    def drawing_options(self) -> dict[str, object]:
        """DiceBear's options: only shapes and colours that have a name are drawn."""
        options: dict[str, object] = dict(self.options)
        options.update({attribute: list(values) for attribute, values in self.phrases.items()})
        options.update({attribute: list(p.values()) for attribute, p in self.colors.items()})
        options["backgroundColor"] = list(BACKGROUNDS.values())
        return options


_PERSONAS = Style(
    name="personas",
    word="personas",
    phrases={
        "hair": {
            "long": "long {} hair",
            "curlyHighTop": "a curly {} high top",
            "bobCut": "a {} bob cut",
            "curly": "big curly {} hair",
            "pigtails": "{} pigtails",
            "bobBangs": "a {} bob with bangs",
            "buzzcut": "a {} buzz cut",
            "bald": "a bald head",
            "cap": "an orange cap",
            "beanie": "a red beanie",
            "straightBun": "a {} hair bun",
            "mohawk": "a {} mohawk",
            "shortCombover": "short {} hair",
        },
        "eyes": {
            "open": "open eyes",
            "sleep": "closed eyes",
            "wink": "a wink",
            "glasses": "glasses",
            "happy": "happy eyes",
            "sunglasses": "sunglasses",
        },
        "mouth": {
            "smile": "a smile",
            "frown": "a frown",
            "surprise": "a surprised mouth",
            "pacifier": "a pacifier",
            "bigSmile": "a big smile",
            "lips": "full lips",
        },
        "facialHair": {
            "beardMustache": "a full {} beard",
            "walrus": "a {} moustache",
            "goatee": "a {} goatee",
        },
        "body": {
            "squared": "a {} shirt",
            "rounded": "a {} sweater",
            "checkered": "a checkered {} shirt",
        },
        "nose": {"mediumRound": "", "smallRound": ""},
    },
    # The caps have colours of their own. Dark skin comes out grey in this style.
    colors={
        "hairColor": HAIR,
        "clothingColor": CLOTHES,
        "skinColor": {"light": SKIN["light"], "tan": SKIN["tan"], "brown": "b5623a"},
    },
    colored_by={"hair": "hairColor", "facialHair": "hairColor", "body": "clothingColor"},
    worn=frozenset({"body"}),
    options={"facialHairProbability": 20, "scale": 125, "translateY": 6},
)

_TOON_HEAD = Style(
    name="toonHead",
    word="toon",
    phrases={
        "hair": {
            "sideComed": "side-combed {} hair",
            "undercut": "a {} undercut",
            "spiky": "spiky {} hair",
            "bun": "a {} hair bun",
        },
        "rearHair": {
            "longStraight": "long straight hair",
            "longWavy": "long wavy hair",
            "shoulderHigh": "shoulder-length hair",
        },
        "eyes": {
            "happy": "happy eyes",
            "wide": "wide eyes",
            "bow": "closed eyes",
            "humble": "half-open eyes",
            "wink": "a wink",
        },
        "eyebrows": {"raised": "", "angry": "angry eyebrows", "happy": "", "sad": ""},
        "mouth": {
            "laugh": "a laughing mouth",
            "angry": "an angry mouth",
            "agape": "a surprised mouth",
            "smile": "a smile",
            "sad": "a frown",
        },
        "beard": {
            "moustacheTwirl": "a {} moustache",
            "fullBeard": "a full {} beard",
            "longBeard": "a long {} beard",
            "chin": "a {} goatee",
        },
        "clothes": {
            "turtleNeck": "a {} turtleneck",
            "openJacket": "a {} jacket",
            "dress": "a {} dress",
            "shirt": "a {} collared shirt",
            "tShirt": "a {} t-shirt",
        },
    },
    colors={"hairColor": HAIR, "clothesColor": CLOTHES, "skinColor": SKIN},
    colored_by={"hair": "hairColor", "beard": "hairColor", "clothes": "clothesColor"},
    worn=frozenset({"clothes"}),
    options={"beardProbability": 20, "rearHairProbability": 50, "scale": 112, "translateY": 4},
)

_DYLAN = Style(
    name="dylan",
    word="dylan",
    phrases={
        "hair": {
            "plain": "short {} hair",
            "wavy": "wavy {} hair",
            "shortCurls": "short curly {} hair",
            "parting": "parted {} hair",
            "spiky": "spiky {} hair",
            "roundBob": "a round {} bob",
            "longCurls": "long curly {} hair",
            "buns": "two {} hair buns",
            "bangs": "long {} hair with bangs",
            "fluffy": "fluffy {} hair",
            "flatTop": "a {} flat top",
            "shaggy": "shaggy {} hair",
        },
        "mood": {
            "happy": "a happy face",
            "angry": "an angry face",
            "neutral": "a neutral face",
            "superHappy": "a big laugh",
            "sad": "a sad face",
            "hopeful": "a hopeful face",
            "confused": "a confused face",
        },
        "facialHair": {"default": "stubble"},
    },
    # The face is drawn in black lines, which dark skin would hide.
    colors={"hairColor": HAIR, "skinColor": {k: v for k, v in SKIN.items() if k != "dark"}},
    colored_by={"hair": "hairColor"},
    options={"facialHairProbability": 15},
)

_MICAH = Style(
    name="micah",
    word="micah",
    phrases={
        "hair": {
            "fonze": "short swept {} hair",
            "mrT": "a {} mohawk",
            "mrClean": "a bald head",
            "dannyPhantom": "a {} mullet",
            "full": "long wavy {} hair",
            "turban": "a {} turban",
            "pixie": "a {} bob",
        },
        "eyes": {"eyes": "", "round": "", "smiling": "happy eyes"},
        "eyebrows": {"up": "", "eyelashesUp": "long eyelashes"},
        "mouth": {
            "surprised": "a surprised mouth",
            "laughing": "a laughing mouth",
            "nervous": "a nervous grin",
            "smile": "a smile",
            "pucker": "puckered lips",
            "frown": "a frown",
        },
        "facialHair": {"beard": "a full {} beard", "scruff": "stubble"},
        "glasses": {"round": "round glasses", "square": "square glasses"},
        "earrings": {"hoop": "a hoop earring"},
        "shirt": {
            "open": "a {} t-shirt",
            "crew": "a {} sweater",
            "collared": "a {} collared shirt",
        },
        "nose": {"curve": "", "pointed": "", "tound": ""},
        "ears": {"attached": ""},
    },
    # The mouth is a black line, which a black beard would hide.
    colors={
        "hairColor": HAIR,
        "facialHairColor": {k: HAIR[k] for k in ("brown", "blond", "red", "white")},
        "shirtColor": CLOTHES,
        "baseColor": SKIN,
        "glassesColor": {"black": CLOTHES["black"]},
        "earringColor": {"yellow": CLOTHES["yellow"]},
    },
    colored_by={"hair": "hairColor", "facialHair": "facialHairColor", "shirt": "shirtColor"},
    worn=frozenset({"shirt"}),
    skin="baseColor",
    options={"facialHairProbability": 15, "glassesProbability": 25, "earringsProbability": 15},
)

_BIG_SMILE = Style(
    name="bigSmile",
    word="bigsmile",  # personas have a big smile, too
    phrases={
        "hair": {
            "shortHair": "short {} hair",
            "mohawk": "a {} mohawk",
            "wavyBob": "a wavy {} bob",
            "bowlCutHair": "a {} bowl cut",
            "curlyBob": "big curly {} hair",
            "straightHair": "long straight {} hair",
            "braids": "{} braids",
            "shavedHead": "a {} buzz cut",
            "bunHair": "a {} hair bun",
            "bangs": "long {} hair with bangs",
            "halfShavedHead": "a {} undercut",
            "curlyShortHair": "short curly {} hair",
        },
        "eyes": {
            "cheery": "",
            "normal": "",
            "starstruck": "starry eyes",
            "winking": "a wink",
            "sleepy": "closed eyes",
            "sad": "sad eyes",
            "angry": "angry eyes",
        },
        "mouth": {
            "openedSmile": "a laughing mouth",
            "unimpressed": "a straight mouth",
            "openSad": "an open mouth",
            "teethSmile": "a toothy smile",
            "braces": "a laughing mouth",
            "kawaii": "a small smile",
        },
        # Not the masks and sunglasses: captions would speak of what they hide.
        "accessories": {
            "catEars": "cat ears",
            "glasses": "glasses",
            "sailormoonCrown": "a golden tiara",
            "clownNose": "a clown nose",
            "mustache": "a brown moustache",
        },
    },
    colors={"hairColor": HAIR, "skinColor": SKIN},
    colored_by={"hair": "hairColor"},
    options={"accessoriesProbability": 35, "scale": 95, "translateY": 4},
)

_MINIAVS = Style(
    name="miniavs",
    word="miniavs",
    phrases={
        "hair": {
            "slaughter": "a bald head with {} hair at the sides",
            "ponyTail": "a {} ponytail",
            "long": "long straight {} hair",
            "curly": "curly {} hair",
            "stylish": "a {} quiff",
            "elvis": "a big {} quiff",
            "classic02": "short {} hair",
            "classic01": "short {} hair",
        },
        "eyes": {"normal": "open eyes", "confident": "half-open eyes", "happy": "happy eyes"},
        "mouth": {"default": "a smile", "missingTooth": "a missing tooth"},
        "mustache": {
            "pencilThinBeard": "a {} goatee",
            "pencilThin": "a thin {} moustache",
            "horshoe": "a {} horseshoe moustache",
        },
        "glasses": {"normal": "round glasses"},
        "blushes": {"default": "rosy cheeks"},
        "body": {"tShirt": "a {} t-shirt", "golf": "a {} turtleneck"},
        "head": {"normal": "", "wide": "", "thin": ""},
    },
    colors={"hairColor": HAIR, "skinColor": SKIN, "bodyColor": CLOTHES},
    colored_by={"hair": "hairColor", "mustache": "hairColor", "body": "bodyColor"},
    worn=frozenset({"body"}),
    options={
        "mustacheProbability": 20,
        "glassesProbability": 20,
        "blushesProbability": 30,
        "translateX": 5,
    },
)

#: The styles by their DiceBear name.
STYLES: Mapping[str, Style] = {
    s.name: s for s in (_PERSONAS, _TOON_HEAD, _DYLAN, _MICAH, _BIG_SMILE, _MINIAVS)
}
