"""The research flow of the guides: two checkpoints, one after the other."""

from kitaru import checkpoint, flow

FACTS = {
    "durable": "A durable flow keeps the output of each finished checkpoint.",
    "execution": "An execution is one run of one immutable snapshot.",
    "routing": "A tag is a signpost; consumers follow it to a version.",
    "serverless": "Nothing runs between two executions: the store is all there is.",
}


@checkpoint
def collect_notes(topic: str) -> list[str]:
    """What is known about each word of the topic."""
    words = topic.lower().split()
    return [FACTS.get(word, f"Nothing is noted about {word} yet.") for word in words]


@checkpoint
def write_summary(topic: str, notes: list[str]) -> str:
    """One paragraph."""
    return f"{topic.capitalize()}: {' '.join(notes)}"


@flow
def research_agent(topic: str) -> str:
    """Collect notes on a topic and sum them up."""
    notes = collect_notes(topic)
    return write_summary(topic, notes)


if __name__ == "__main__":
    print(research_agent.run(topic="durable execution").wait())
