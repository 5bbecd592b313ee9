"""What the benchmarks say: plain sentences of the lengths that people send, always in the same order."""

SENTENCES = (
    "The old dog saw the small boat near the river.",
    "Please open the window before you go to sleep.",
    "A strong wind blew the paper off the table.",
    "My sister found the green coat behind the door.",
    "We will meet at the station in the morning.",
    "The young man read the long letter twice.",
    "It is cold today, but the sun is warm.",
    "They walked slowly along the wide road.",
    "The child asked a good question at school.",
    "Her father bought a house on the hill.",
    "The clock on the wall is five minutes slow.",
    "He put the heavy box under the bed.",
    "The train was late because of the snow.",
    "She told the story again in a low voice.",
    "The white horse ran across the field.",
    "You can leave your bag on the chair.",
)


def texts(count: int) -> list[str]:
    """The first `count` sentences, from the beginning again when they run out."""
    return [SENTENCES[index % len(SENTENCES)] for index in range(count)]
