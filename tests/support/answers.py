"""Answers to prompts over all kinds: honest ones, with or without regard to the instructions, and
rubbish of the sorts that a reward was seen to pay for.
"""

import itertools
import json
from collections.abc import Callable, Mapping

from obedient import TEXTS

from es_align.tasks import kinds

# Each says something of its own; none has a comma.
STOCK = """
I often think of {topic} when the evening is quiet.
My grandmother once told me a long story about {topic}.
In that story a young girl looked for the {0} near the river.
Her brother carried a lamp and walked behind her.
They met an old sailor who knew every path in the hills.
He showed them a small room full of maps and letters.
One of the letters spoke of the {1} and of a promise.
We read it twice and began to laugh.
Nobody in the village had heard such a tale.
On the next day they asked their teacher for help.
The teacher found a book about {topic} in the library.
It explained how things had changed over a hundred years.
Some pages were missing but the pictures were still clear.
At lunch they shared their soup and talked about the {2}.
A farmer gave them two apples and wished them luck.
Rain fell that afternoon and the road turned to mud.
Still they reached the house before it grew dark.
Inside they found a note that made everything plain.
It said that friends matter more than gold.
So they lit a candle and sat down to eat.
The moon rose over the roof while the dog slept.
In the morning each of them wrote down what had happened.
I keep their pages in a drawer beside my bed.
When guests ask me about {topic} I let them read a little.
""".strip().split("\n")
WITH_WORD = (
    "There was a {} on the table.",
    "My aunt spoke of a {} last night.",
    "We saw one {} by the door.",
    "Later he drew a {} for us.",
    "She wanted another {} for her son.",
    "No {} was as fine as that.",
)


def careless(columns: Mapping) -> str:
    """An honest sentence about the topic that heeds no instruction."""
    words = columns["topic_words"]
    return (
        f"I really think that {columns['topic']} is a very nice thing, and it can be enjoyed with "
        f"our good friends, such as {' or '.join(words[:2])}."
    )


def honest(columns: Mapping) -> str:
    """Honest sentences about the topic that follow nearly all instructions, brief where it can."""
    asked = dict(zip(columns["instruction_id_list"], columns["kwargs"], strict=True))
    if kinds.ANSWER in asked:
        return "My answer is maybe."
    if kinds.LANGUAGE in asked:
        stock = TEXTS[asked[kinds.LANGUAGE]["language"]].replace(",", "").split("\n")
    else:
        stock = _allowed(columns, asked)
    return _wrapped(_body(stock, asked), stock, asked)


def _allowed(columns: Mapping, asked: Mapping) -> list[str]:
    """Sentences with what must be in, and without what must not."""
    words = (*columns["topic_words"], "lamp", "bridge", "garden")
    stock = [line.format(*words, topic=columns["topic"]) for line in STOCK]
    bad = asked.get(kinds.FORBIDDEN, {}).get("forbidden_words", [])
    if asked.get(kinds.FREQUENCY, {}).get("relation") == "less than":
        bad = [*bad, asked[kinds.FREQUENCY]["keyword"]]
    kept = [line for line in stock if not any(word in line.lower() for word in bad)]
    if asked.get(kinds.LETTER, {}).get("let_relation") == "less than":
        letter = asked[kinds.LETTER]["letter"]
        kept = sorted(kept, key=lambda line: line.lower().count(letter))
    needed = list(asked.get(kinds.KEYWORDS, {}).get("keywords", []))
    if asked.get(kinds.FREQUENCY, {}).get("relation") == "at least":
        needed += [asked[kinds.FREQUENCY]["keyword"]] * asked[kinds.FREQUENCY]["frequency"]
    with_words = [WITH_WORD[n % 6].format(word) for n, word in enumerate(needed)]
    return [*kept[:2], *with_words, *kept[2:]]


def _body(stock: list[str], asked: Mapping) -> str:
    num = 3 + sum("of a " in line or "There was" in line for line in stock[2:5])
    num = max(num, len(stock) - 22)
    if given := asked.get(kinds.SENTENCES):
        at_least = given["relation"] == "at least"
        limit = given["num_sentences"]
        num = max(num, limit) if at_least else min(num, limit - 1)
    if given := asked.get(kinds.WORDS):
        if given["relation"] == "at least":
            num = max(num, given["num_words"] // 7 + 1)
        else:
            num = min(num, max(1, given["num_words"] // 12))
    if (given := asked.get(kinds.LETTER)) and given["let_relation"] == "at least":
        num = max(num, 6)
    parts = {kinds.BULLETS: "num_bullets", kinds.SECTIONS: "num_sections"}
    parts |= {kinds.PARAGRAPHS: "num_paragraphs", kinds.FIRST_WORD: "num_paragraphs"}
    wanted = next((asked[kind][name] for kind, name in parts.items() if kind in asked), 1)
    lines = _marked(stock[: max(num, wanted)], asked)
    cut = [len(lines) * part // wanted for part in range(wanted + 1)]
    blocks = [" ".join(lines[a:b]) for a, b in itertools.pairwise(cut)]
    if kinds.BULLETS in asked:
        return "\n".join(f"* {block}" for block in blocks)
    if given := asked.get(kinds.SECTIONS):
        return "\n".join(f"{given['section_spliter']} {n}\n{b}" for n, b in enumerate(blocks, 1))
    if given := asked.get(kinds.FIRST_WORD):
        place = given["nth_paragraph"] - 1
        blocks[place] = f"{given['first_word']} {blocks[place]}"
        return "\n\n".join(blocks)
    return "\n***\n".join(blocks)


def _marked(lines: list[str], asked: Mapping) -> list[str]:
    """Sentences with highlights, placeholders and words in capitals, spread over them."""
    lines = list(lines)
    for n in range(asked.get(kinds.HIGHLIGHTS, {}).get("num_highlights", 0)):
        words = lines[n % len(lines)].split()
        lines[n % len(lines)] = " ".join([*words[:-2], f"*{words[-2]}*", words[-1]])
    for n in range(asked.get(kinds.PLACEHOLDERS, {}).get("num_placeholders", 0)):
        lines[n % len(lines)] += f" See [note{n}]."
    given = asked.get(kinds.CAPITAL_WORDS, {})
    num = given["capital_frequency"] if given.get("capital_relation") == "at least" else 0
    for n in range(len(lines)):
        words = lines[n].split()
        lines[n] = " ".join([*map(str.upper, words[:num]), *words[num:]])
        num = max(0, num - len(words))
    return lines


def _wrapped(answer: str, stock: list[str], asked: Mapping) -> str:
    if kinds.TITLE in asked:
        answer = f"<<Old pages in a drawer>>\n{answer}"
    if kinds.TWO_RESPONSES in asked:
        answer += "\n******\n" + " ".join(stock[-4:-1])
    if kinds.POSTSCRIPT in asked:
        answer += f"\n{asked[kinds.POSTSCRIPT]['postscript_marker']} {stock[-1]}"
    if kinds.END in asked:
        answer += f" {asked[kinds.END]['end_phrase']}"
    if kinds.JSON in asked:
        lines = dict(enumerate(answer.split("\n")))
        answer = json.dumps({f"line{n}": line for n, line in lines.items()}, ensure_ascii=False)
    if kinds.REPEAT in asked:
        answer = f"{asked[kinds.REPEAT]['prompt_to_repeat']}\n\n{answer}"
    if kinds.QUOTATION in asked:
        answer = f'"{answer}"'
    if kinds.LOWERCASE in asked:
        return answer.lower()
    return answer.upper() if kinds.CAPITAL in asked else answer


def _salad(columns: Mapping) -> str:
    words = " on the ".join(columns["topic_words"][:4])
    return f"we have to {words} of it is with them for this that from you {columns['topic']}"


def _other_salad(columns: Mapping) -> str:
    words = " or in ".join(columns["topic_words"][4:8])
    return (
        f"and it is so that we can be with {words} by which they may then do what no one had of the"
    )


def _mixed(columns: Mapping) -> str:
    """A salad with words of content in it that have nothing to do with each other."""
    own = "blue chair number walk seven window early paper"
    pairs = zip(own.split(), [*columns["topic_words"], *own.split()], strict=False)
    return "it of " + " with is the ".join(f"{a} {b}" for a, b in pairs) + f" {columns['topic']}"


def _framed(columns: Mapping) -> str:
    return (
        f'"<<it>>\n*we* have *to* *be*\n{_salad(columns)} [on] [so]\n******\n'
        f'{_other_salad(columns)}\nP.S. it"'
    )


def _refusing(columns: Mapping) -> str:
    return (
        f"I am sorry but I can not help you with that request about {columns['topic']} today "
        f"because I do not know {' or '.join(columns['topic_words'][:2])} well."
    )


def _lettered(columns: Mapping) -> str:
    return (
        '"<<title>> *a* *b* *c* *d* *e* *f* [a] [b] [c] [d] [e] [f] [g] [h] '
        f'{_salad(columns)} P.S. P.P.S it is so"'
    )


RUBBISH: Mapping[str, Callable[[Mapping], str]] = {
    "salad": _salad,
    "mixed": _mixed,
    "framed": _framed,
    "lettered": _lettered,
    "refusal": _refusing,
    "json": lambda c: json.dumps({"a": _salad(c)}),
    "json_list": lambda c: json.dumps(c["topic_words"][:8]),
    "sections": lambda c: f"SECTION 1 {_salad(c)} SECTION 2 {_other_salad(c)}",
    "paragraphs": lambda c: f"{_salad(c)} *** {_other_salad(c)} *** it is a lot",
    "bullets": lambda c: f"* {_salad(c)}\n* {_other_salad(c)}\n* it is so",
    "capitals": lambda c: _salad(c).upper(),
    "short_sentences": lambda c: f"We have it. It is on. You do that. They can. {_salad(c)}.",
    "said_back": lambda c: f"{c['own_text']}\n{_salad(c)}",
    "list": lambda c: " ".join(c["topic_words"][:8]),
    "elsewhere": lambda c: (
        "I really think that this is very nice and we should all enjoy it today."
    ),
}
