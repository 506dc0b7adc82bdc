"""Made-up responses to IFEval prompts: each instruction followed, missed or ignored by chance.

For comparing checkers and timing them where no model's responses are at hand. Most are near the
edge of what is asked (one sentence more, one bullet less), where two checkers would differ.
`mutate` breaks a response further: case, punctuation, line breaks, Unicode, Markdown, truncation.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from es_align.bench.ifeval_texts import LANGUAGES, PLAIN, SENTENCES
from kernels.errors import DataError
from rewards.base import JsonValue

Arguments: TypeAlias = Mapping[str, JsonValue]
Shape: TypeAlias = Callable[[str, Arguments, random.Random], str]

FOLLOW_PROBABILITY = 0.8
_MARKERS = ("Section", "SECTION", "PART")


class IfevalPrompt(NamedTuple):
    """One row of the data set."""

    key: int
    prompt: str
    instruction_ids: tuple[str, ...]
    kwargs: tuple[dict[str, JsonValue], ...]


def read_ifeval_prompts(file: Path) -> list[IfevalPrompt]:
    """The rows of IFEval's input_data.jsonl; DataError if the file is not there."""
    if not file.is_file():
        raise DataError(f"{file} does not exist; give the path of IFEval's input_data.jsonl")
    rows = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line.strip()]
    return [
        IfevalPrompt(
            row["key"], row["prompt"], tuple(row["instruction_id_list"]), tuple(row["kwargs"])
        )
        for row in rows
    ]


def make_response(
    prompt: IfevalPrompt, generator: random.Random, *, sentences: range = range(1, 14)
) -> str:
    """A response that follows each instruction with `FOLLOW_PROBABILITY`, or nearly does.

    `sentences`: how long it is before an instruction asks for another length.
    """
    pool = SENTENCES if generator.random() < 0.7 else tuple(f"{text}." for text in PLAIN)
    response = _sentences(generator.choice(sentences), pool, generator)
    asked = dict(zip(prompt.instruction_ids, prompt.kwargs, strict=True))
    for instruction_id, shape in _SHAPES.items():
        if instruction_id in asked and generator.random() < FOLLOW_PROBABILITY:
            response = shape(response, asked[instruction_id], generator)
    return response


def mutate(response: str, generator: random.Random) -> str:
    """One to three random changes."""
    for _ in range(generator.randrange(1, 4)):
        response = generator.choice(_MUTATIONS)(response, generator)
    return response


def _sentences(num: int, pool: Sequence[str], generator: random.Random) -> str:
    blanks = (" ", " ", " ", "\n", "\n\n")
    return "".join(generator.choice(pool) + generator.choice(blanks) for _ in range(num)).strip()


def _near(arguments: Arguments, name: str, generator: random.Random) -> int:
    value = arguments[name]
    wanted = int(value) if isinstance(value, int | float) else 1
    return max(0, wanted + generator.choice((-1, 0, 0, 0, 1)))


def _blocks(separator: str, heading: str = "") -> Callable[[str, int, random.Random], str]:
    def join(response: str, num: int, generator: random.Random) -> str:
        blocks = [
            heading.format(index=index) + generator.choice((*PLAIN, response, *SENTENCES))
            for index in range(1, num + 1)
        ]
        return separator.join(blocks)

    return join


def _insert(response: str, words: Sequence[str], generator: random.Random) -> str:
    parts = response.split(" ")
    for word in words:
        parts.insert(generator.randrange(len(parts) + 1), word)
    return " ".join(parts)


def _texts(arguments: Arguments, name: str) -> list[str]:
    value = arguments[name]
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _language(_: str, arguments: Arguments, generator: random.Random) -> str:
    text = LANGUAGES.get(str(arguments["language"]), LANGUAGES["en"])
    other = LANGUAGES[generator.choice(tuple(LANGUAGES))]
    return generator.choice((text, text, f"{text}\n{text}", f"{other}\n{text}", f"{text} {other}"))


def _words(_: str, arguments: Arguments, generator: random.Random) -> str:
    words = _sentences(200, SENTENCES, generator).split(" ")
    num = _near(arguments, "num_words", generator) + generator.randrange(-12, 6)
    return " ".join(words[: max(1, num)])


def _number_sentences(_: str, arguments: Arguments, generator: random.Random) -> str:
    return _sentences(_near(arguments, "num_sentences", generator), SENTENCES, generator)


def _paragraphs(response: str, arguments: Arguments, generator: random.Random) -> str:
    separator = generator.choice(("***", "\n***\n", "\n\n***\n\n", " *** ", "\n* * *\n"))
    return _blocks(separator)(response, _near(arguments, "num_paragraphs", generator), generator)


def _first_word(response: str, arguments: Arguments, generator: random.Random) -> str:
    word = str(arguments["first_word"])
    word = generator.choice((word, word.capitalize(), f'"{word}"', f"{word},", f"*{word}*", "The"))
    num = _near(arguments, "num_paragraphs", generator)
    blocks = [generator.choice((*PLAIN, *SENTENCES)) for _ in range(num)]
    position = int(str(arguments["nth_paragraph"])) - 1
    if position < num:
        blocks[position] = f"{word} {response.replace(chr(10), ' ')}"
    return "\n\n".join(blocks)


def _sections(response: str, arguments: Arguments, generator: random.Random) -> str:
    word = generator.choice((str(arguments["section_spliter"]), *_MARKERS))
    heading = f"{word} {{index}}\n"
    return _blocks("\n\n", heading)(
        response, _near(arguments, "num_sections", generator), generator
    )


def _bullets(_: str, arguments: Arguments, generator: random.Random) -> str:
    bullet = generator.choice(("* ", "- ", "  * ", "*", "• ", "**a** ", "1. "))
    num = _near(arguments, "num_bullets", generator)
    return "Here it is:\n\n" + _blocks("\n", bullet)("done", num, generator)


def _highlights(response: str, arguments: Arguments, generator: random.Random) -> str:
    marks = ("*one thing*", "**one thing**", "* one\nthing*", "**", "*x*")
    num = _near(arguments, "num_highlights", generator)
    return _insert(response, [generator.choice(marks) for _ in range(num)], generator)


def _placeholders(response: str, arguments: Arguments, generator: random.Random) -> str:
    marks = ("[name]", "[address]", "[]", "[[x]]", "[your\nname]", "[date")
    num = _near(arguments, "num_placeholders", generator)
    return _insert(response, [generator.choice(marks[:2] * 4 + marks)] * num, generator)


def _postscript(response: str, arguments: Arguments, generator: random.Random) -> str:
    marker = str(arguments["postscript_marker"])
    forms = (marker, marker, marker.lower(), marker.replace(".", ". "), marker.replace(".", ""))
    return f"{response}\n\n{generator.choice(forms)} {generator.choice(SENTENCES)}"


def _keywords(name: str) -> Shape:
    def shape(response: str, arguments: Arguments, generator: random.Random) -> str:
        words = [
            generator.choice((word, word.upper(), f"{word}s", f"**{word}**"))
            for word in _texts(arguments, name)
            if generator.random() < 0.9
        ]
        return _insert(response, words, generator)

    return shape


def _frequency(response: str, arguments: Arguments, generator: random.Random) -> str:
    words = _texts(arguments, "keyword") * _near(arguments, "frequency", generator)
    return _insert(response, words, generator)


def _letters(response: str, arguments: Arguments, generator: random.Random) -> str:
    letter = str(arguments["letter"])
    num = _near(arguments, "let_frequency", generator)
    plain = response.replace(letter, "").replace(letter.upper(), "")
    return _insert(
        plain, [generator.choice((letter, letter.upper())) for _ in range(num)], generator
    )


def _capitals(response: str, arguments: Arguments, generator: random.Random) -> str:
    words = ("NOW", "IT'S", "U.S.", "WELL-KNOWN", "A", "CANNOT", "NASA,", "(BBC)", "X2", "McX")
    num = _near(arguments, "capital_frequency", generator)
    plain = generator.choice((response, response.lower()))
    return _insert(plain, [generator.choice(words) for _ in range(num)], generator)


def _json(response: str, _: Arguments, generator: random.Random) -> str:
    text = json.dumps({"answer": response, "n": [1, 2.5, None]}, indent=generator.choice((None, 2)))
    forms = (text, f"```json\n{text}\n```", f"```JSON\n{text}```", f"Here:\n{text}", f"{text},")
    return generator.choice(forms)


def _phrase(name: str, at_end: bool) -> Shape:
    def shape(response: str, arguments: Arguments, generator: random.Random) -> str:
        phrase = str(arguments[name])
        phrase = generator.choice((phrase, phrase, phrase.upper(), f'"{phrase}"', phrase[:-1]))
        return f"{response} {phrase}" if at_end else f"{phrase}\n\n{response}"

    return shape


def _two(response: str, _: Arguments, generator: random.Random) -> str:
    other = generator.choice((response, *SENTENCES))
    separator = generator.choice(("******", "\n******\n", "*****", "\n\n******\n\n******"))
    return f"{response}{separator}{other}"


# In the order in which they can be combined: content, then layout, then what wraps the whole.
_SHAPES: Mapping[str, Shape] = {
    "language:response_language": _language,
    "length_constraints:number_words": _words,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_format:constrained_response": lambda text, _, generator: generator.choice(
        ("My answer is yes.", "**My answer is no.**", "My answer is maybe", text)
    ),
    "keywords:existence": _keywords("keywords"),
    "keywords:forbidden_words": lambda text, arguments, generator: (
        text
        if generator.random() < 0.6
        else _keywords("forbidden_words")(text, arguments, generator)
    ),
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letters,
    "change_case:capital_word_frequency": _capitals,
    "combination:two_responses": _two,
    "detectable_content:postscript": _postscript,
    "startend:end_checker": _phrase("end_phrase", at_end=True),
    "detectable_format:title": lambda text, _, generator: (
        generator.choice(("<<A title>>", "<A title>", "<< >>", "**<<A title>>**")) + "\n\n" + text
    ),
    "change_case:english_lowercase": lambda text, _, __: text.lower(),
    "change_case:english_capital": lambda text, _, __: text.upper(),
    "punctuation:no_comma": lambda text, _, __: text.replace(",", ""),
    "detectable_format:json_format": _json,
    "startend:quotation": lambda text, _, generator: generator.choice(
        ('"{}"', '"{}".', "“{}”")
    ).format(text),
    "combination:repeat_prompt": _phrase("prompt_to_repeat", at_end=False),
}


def _change_words(response: str, generator: random.Random) -> str:
    change = generator.choice((str.upper, str.lower, str.title, str.swapcase))
    share = generator.choice((0.1, 0.5, 1.0))
    words = response.split(" ")
    return " ".join(change(word) if generator.random() < share else word for word in words)


def _change_characters(response: str, generator: random.Random) -> str:
    old = generator.choice(".,!?'\"-*\n :;()")
    new = generator.choice(
        ("", *".,!?'\"*\n", "\u2019", "\u201d", "...", "\xa0", "\u2014", "\u0301")
    )
    return response.replace(old, new)


def _insert_pieces(response: str, generator: random.Random) -> str:
    pieces = ("\u200b", "\u0301", "é", "ß", "中文", "🙂", "\x1c", "\u2028", "\ufeff", "\x00", "ﬁ")
    pieces += ("**", "*", "#", "```", "<<x>>", "[x]", "\n\n", "***", "\t", "P.S.", "\r\n", '"', ",")
    for _ in range(generator.randrange(1, 5)):
        place = generator.randrange(len(response) + 1)
        response = response[:place] + generator.choice(pieces) + response[place:]
    return response


_MUTATIONS: Sequence[Callable[[str, random.Random], str]] = (
    _change_words,
    _change_characters,
    _change_characters,
    _insert_pieces,
    lambda text, generator: text[: generator.randrange(len(text) + 1)],
    lambda text, generator: text[generator.randrange(len(text) + 1) :],
    lambda text, generator: generator.choice(("Sure, here it is:\n", "Here you are.\n\n")) + text,
    lambda text, generator: text + generator.choice(("\nHope that helps!", "\n\n---\nBye.", " ")),
    lambda text, _: "\n".join(f"**{line}**" for line in text.split("\n")),
    lambda text, generator: f"{generator.choice(('#', '##', '>'))} {text}",
    lambda text, _: f"```\n{text}\n```",
    lambda text, _: "\n".join(reversed(text.split("\n"))),
    lambda text, _: text.replace(". ", ".\n"),
    lambda text, _: " ".join(text.split()),
)
