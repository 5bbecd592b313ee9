"""Knows what the voices say: sampled sentences, templates, word lists, and the held-out test sentences."""

import random
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from training.files import whole

SUS_ADJECTIVES = (
    "red old young cold warm small large quiet clever hungry golden broken happy lazy simple strange heavy "
    "wooden empty famous gentle honest nervous silver tiny yellow purple modern angry brave"
).split()
SUS_NOUNS = (
    "dog river teacher window garden doctor mountain letter kitchen farmer picture engine island bottle "
    "lawyer candle button market sailor pencil bridge winter soldier village basket student monkey hammer "
    "captain forest"
).split()
SUS_VERBS = (
    "sees likes carries follows finds paints watches breaks opens wants hears buys draws holds helps "
    "moves leaves visits remembers"
).split()
SUS_ADVERBS = "today slowly again quickly often yesterday".split()
_WORD = re.compile(r"^[a-z]+('(s|t|re|ve|ll|d|m))?$")
_DANGLING = {
    "the",
    "a",
    "an",
    "of",
    "to",
    "and",
    "or",
    "in",
    "for",
    "with",
    "that",
    "my",
    "your",
    "his",
    "her",
}
# The model does not keep its logarithms alive: with one that is freed, all probabilities are what lies there.
_ARPA_WRITER = (
    "import sys, pocketsphinx as p, pathlib\n"
    "lm = str(pathlib.Path(p.__file__).parent / 'model/en-us/en-us.lm.bin')\n"
    "config, logarithms = p.Config(lm=lm), p.LogMath()\n"
    "p.NGramModel(config, logarithms, lm).write(sys.argv[1])\n"
)


def dictionary_words() -> list[str]:
    """Words of PocketSphinx's bundled pronouncing dictionary that are plain letters, sorted."""
    import pocketsphinx

    path = Path(pocketsphinx.__file__).parent / "model/en-us/cmudict-en-us.dict"
    words = {line.split(" ", 1)[0] for line in path.read_text().splitlines()}
    return sorted(word for word in words if _WORD.match(word))


def read_bigrams(arpa: Path) -> dict[str, tuple[list[str], list[float]]]:
    """Successors and cumulative probabilities for each word of the ARPA file, which is made when absent.

    Raises:
        RuntimeError: PocketSphinx does not make it.
    """
    if not arpa.exists():
        arpa.parent.mkdir(parents=True, exist_ok=True)
        with whole(arpa) as file:
            # PocketSphinx 5.1 dies at the end of the bigrams while it writes; what it wrote is enough.
            subprocess.run([sys.executable, "-c", _ARPA_WRITER, file.name], check=False)
            if not Path(file.name).stat().st_size:
                raise RuntimeError("PocketSphinx did not write its language model: see what it says above")
    known = set(dictionary_words()) | {"<s>", "</s>"}
    successors: dict[str, list[tuple[str, float]]] = defaultdict(list)
    in_bigrams = False
    with arpa.open(encoding="utf-8", errors="ignore") as lines:
        for line in lines:
            if line.startswith("\\"):
                in_bigrams = line.startswith("\\2-grams")
                continue
            fields = line.split()
            if in_bigrams and len(fields) >= 3 and fields[1] in known and fields[2] in known:
                successors[fields[1]].append((fields[2], 10.0 ** float(fields[0])))
    return {
        word: ([w for w, _ in pairs], list(accumulate(p for _, p in pairs)))
        for word, pairs in successors.items()
    }


class SentenceSampler:
    """Draws word sequences from a bigram walk; the same seed gives the same sentences."""

    def __init__(self, bigrams: dict[str, tuple[list[str], list[float]]], seed: int) -> None:
        self._bigrams = bigrams
        self._random = random.Random(seed)

    def words(self, shortest: int, longest: int) -> list[str]:
        """A sentence of `shortest` to `longest` words that does not end in an article or preposition."""
        while True:
            target = self._random.randint(shortest, longest)
            sentence: list[str] = []
            previous = "<s>"
            while len(sentence) < target + 4:
                if previous not in self._bigrams:
                    break
                choices, weights = self._bigrams[previous]
                previous = self._random.choices(choices, cum_weights=weights)[0]
                if previous == "</s>":
                    break
                sentence.append(previous)
                if len(sentence) >= target and previous not in _DANGLING:
                    break
            if shortest <= len(sentence) <= longest and sentence[-1] not in _DANGLING:
                return sentence


def sus_sentence(rng: random.Random) -> list[str]:
    """One sentence of the closed grammar, without sense (the ADJ NOUN VERB the ADJ NOUN [ADV])."""
    words = ["the", rng.choice(SUS_ADJECTIVES), rng.choice(SUS_NOUNS), rng.choice(SUS_VERBS)]
    words += ["the", rng.choice(SUS_ADJECTIVES), rng.choice(SUS_NOUNS)]
    return words + ([rng.choice(SUS_ADVERBS)] if rng.random() < 0.5 else [])


# So many texts of each test are kept out of training: those that words are scored with, that clones and tags
# say, and that references and voices to compare with are made of.
HELD_OUT = 400
_CLOSED_SEEDS, _OPEN_SEEDS = (9001, 9003, 9005, 9006, 9101, 9102), (9002, 9004)


def held_out_sus(count: int, seed: int = 9001) -> list[list[str]]:
    """The closed-grammar test sentences; training texts never contain one of them."""
    rng = random.Random(seed)
    return [sus_sentence(rng) for _ in range(count)]


def held_out_open(
    count: int, bigrams: dict[str, tuple[list[str], list[float]]], seed: int = 9002
) -> list[list[str]]:
    """The open-vocabulary test sentences (4 to 7 words); training texts never contain one of them."""
    sampler = SentenceSampler(bigrams, seed)
    return [sampler.words(4, 7) for _ in range(count)]


def held_out_everyday(count: int, seed: int = 9006) -> list[str]:
    """The everyday test: numbers, names, dates, prices, questions, lists; never trained on."""
    rng = random.Random(seed)
    # Of those with fewer gaps there are too few to keep some of them out of training.
    templates = [template for template in _TEMPLATES if template.count("{") > 1]
    return [template_sentence(rng, templates) for _ in range(count)]


def as_sentence(words: list[str]) -> str:
    """Words as a plain written sentence: first letter upper case, "I" upper case, a full stop."""
    text = " ".join("I" + word[1:] if word == "i" or word.startswith("i'") else word for word in words)
    return text[0].upper() + text[1:] + "."


def as_written(words: list[str], rng: random.Random, ending: bool = False) -> str:
    """Words as a user types them: mostly a capital first letter, "I" upper case, and closing punctuation.

    With `ending` there is always a mark at the end, as in the middle of a text.
    """
    words = ["I" + word[1:] if word == "i" or word.startswith("i'") else word for word in words]
    if len(words) >= 7 and rng.random() < 0.35:
        cut = rng.randint(2, len(words) - 3)
        words = [*words[:cut], words[cut] + ",", *words[cut + 1 :]]
    text = " ".join(words)
    if rng.random() < 0.88:
        text = text[0].upper() + text[1:]
    return text + rng.choices([".", "?", "!", ""], [0.68, 0.12, 0.08, 0.0 if ending else 0.12])[0]


_NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Isabel Jack Kate Leo Maria Nora Oliver Paul Rachel Sam "
    "Tom Victor Stentor Alice Bob Peter Lucy James Sarah Michael Laura Daniel"
).split()
_PLACES = (
    "London Paris Berlin Boston Chicago Madrid Rome Tokyo Sydney Dublin Texas California Scotland Canada "
    "India Egypt Oxford Seattle Vienna Athens"
).split()
_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_THINGS = (
    "apple book train house table phone computer car bicycle ticket coffee sandwich camera umbrella chair "
    "server model voice story song question answer message minute"
).split()
_TEMPLATES = (Path(__file__).parent / "templates.txt").read_text().splitlines()


def template_sentence(rng: random.Random, templates: Sequence[str] = _TEMPLATES) -> str:
    """An everyday sentence with names, numbers, dates, prices or questions filled in."""
    n, m = rng.randint(1, 100), rng.randint(1, 60)
    things, names = rng.sample(_THINGS, 3), rng.sample(_NAMES, 3)
    return rng.choice(templates).format(
        name=names[0], name2=names[1], name3=names[2], thing=things[0], thing2=things[1], thing3=things[2],
        place=rng.choice(_PLACES), month=rng.choice(_MONTHS), day=rng.choice(_DAYS), d=rng.randint(2, 30),
        part=rng.choice(["morning", "afternoon", "evening"]), n=n, m=m, sum=n + m, h=rng.randint(1, 12),
        mm=f"{rng.choice([5, 10, 15, 20, 25, 30, 35, 40, 45, 50]):02d}", big=rng.randint(101, 9999),
        year=rng.randint(1890, 2030),
        digits=" ".join(str(rng.randint(0, 9)) for _ in range(rng.randint(3, 7))),
        weather=rng.choice(["cold", "warm", "sunny", "rainy", "windy"]),
        adjective=rng.choice(SUS_ADJECTIVES), adjective2=rng.choice(SUS_ADJECTIVES),
    )  # fmt: skip


class TextSource:
    """An endless, seeded stream of training texts in which no held-out test sentence occurs."""

    def __init__(
        self, bigrams: dict[str, tuple[list[str], list[float]]], seed: int, everyday: float = 0.18
    ) -> None:
        """`everyday` is the share of filled templates."""
        self._random, self._everyday = random.Random(seed), everyday
        self._sampler = SentenceSampler(bigrams, seed + 1)
        self._words = dictionary_words()
        tests = [words for seed in _CLOSED_SEEDS for words in held_out_sus(HELD_OUT, seed)]
        tests += [words for seed in _OPEN_SEEDS for words in held_out_open(HELD_OUT, bigrams, seed)]
        self._held_out = {" ".join(words) for words in tests} | set(held_out_everyday(HELD_OUT))

    def next(self, ending: bool = False) -> str:
        """The next text, about one to six seconds long when spoken; with `ending` it closes with a mark."""
        if self._random.random() < self._everyday:
            text = template_sentence(self._random)
            while text in self._held_out:
                text = template_sentence(self._random)
            return text if text[-1] in ".!?" or not ending else text + "."
        return self._sentence(ending)

    def _sentence(self, ending: bool) -> str:
        rng = self._random
        while True:
            kind = rng.random()
            if kind < 0.16:
                words = sus_sentence(rng)
            elif kind < 0.32:
                words = rng.sample(self._words, rng.randint(2, 6))
            elif kind < 0.37:
                words = self._sampler.words(1, 3)
            else:
                words = self._sampler.words(3, 12)
            if " ".join(words) not in self._held_out:
                return as_written(words, rng, ending)
