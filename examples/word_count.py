"""A parallel map: one checkpoint a text, a bound on how many run at once, one checkpoint that adds up."""

from collections import Counter

from kitaru import checkpoint, flow

TEXTS = ["the quick brown fox", "the lazy dog", "the fox and the dog"]


@checkpoint(retries=2)
def count_words(text: str) -> dict[str, int]:
    """How often each word stands in one text."""
    return dict(Counter(text.split()))


@checkpoint
def merge(counts: list[dict[str, int]]) -> dict[str, int]:
    """All counts together, the most frequent first."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


@flow
def word_count(texts: list[str] = TEXTS, at_once: int = 4) -> dict[str, int]:
    """Count the words of many texts side by side."""
    counts = count_words.map(texts, max_concurrency=at_once)
    return merge(counts.results())


if __name__ == "__main__":
    print(word_count.run().wait())
