"""Laws of the benchmark's sentences."""

from stentor.bench.texts import SENTENCES, texts


def test_every_run_says_the_same_in_the_same_order() -> None:
    assert texts(40)[: len(SENTENCES)] == list(SENTENCES)
    assert texts(40)[len(SENTENCES)] == SENTENCES[0]


def test_sentences_are_distinct_and_plain() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES)
    assert all(sentence.isascii() and sentence.endswith(".") for sentence in SENTENCES)
