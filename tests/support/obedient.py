"""An answer that follows every instruction of a prompt, whatever it says."""

import json

from es_align.bench.ifeval_texts import LANGUAGES
from es_align.tasks import kinds
from rewards.base import JsonValue

# Without b, f, g, j, k, p, q, v, w, x, y, z and commas, and without a word in capitals.
TEXT = "the old man told us that it is there"
# Detected as English in lowercase and, by the first letters of its words alone, in capitals.
ENGLISH = f"{TEXT} and one can hear it in the house of his aunt and the other men"
CAPITALS = (
    f"this is what the men and women who went with us had to say when they were there {ENGLISH}"
)
TEXTS = {
    **LANGUAGES,
    "el": "Σήμερα ο καιρός είναι καλός και τα παιδιά παίζουν στον κήπο.",  # noqa: RUF001
    "nl": "Het weer is vandaag mooi en de kinderen spelen buiten in de tuin.",
    "pl": "Pogoda jest dzisiaj piękna i dzieci bawią się w ogrodzie.",
    "sv": "Vädret är vackert idag och barnen leker ute i trädgården.",
    "tr": "Bugün hava çok güzel ve çocuklar bahçede oyun oynuyorlar.",
}


def obedient_answer(columns: dict) -> str:
    """Follows all of `instruction_id_list`; says nothing."""
    asked = dict(zip(columns["instruction_id_list"], columns["kwargs"], strict=True))
    if kinds.ANSWER in asked:
        return "My answer is maybe."
    text = ENGLISH if {kinds.LOWERCASE, kinds.CAPITAL} & asked.keys() else TEXT
    if kinds.CAPITAL in asked and kinds.LETTER not in asked:
        text = CAPITALS
    if kinds.LANGUAGE in asked:
        text = TEXTS[asked[kinds.LANGUAGE]["language"]]
    text = text.replace(",", "").replace("\n", " ")
    answer = _arranged(_filled(text, asked), text, asked)
    return _wrapped(answer, text, asked)


def _filled(text: str, asked: dict[str, dict[str, JsonValue]]) -> str:
    """The text with the words, letters and marks that it needs, in so many sentences."""
    words = [text]
    if kinds.KEYWORDS in asked:
        words += asked[kinds.KEYWORDS]["keywords"]
    if (given := asked.get(kinds.FREQUENCY)) and given["relation"] == "at least":
        words += [given["keyword"]] * given["frequency"]
    if (given := asked.get(kinds.LETTER)) and given["let_relation"] == "at least":
        words.append(given["letter"] * given["let_frequency"])
    if (given := asked.get(kinds.CAPITAL_WORDS)) and given["capital_relation"] == "at least":
        words += ["NOTE"] * given["capital_frequency"]
    if kinds.PLACEHOLDERS in asked:
        words += ["[the]"] * asked[kinds.PLACEHOLDERS]["num_placeholders"]
    if kinds.HIGHLIGHTS in asked:
        words += [f"*{text}*"] * asked[kinds.HIGHLIGHTS]["num_highlights"]
    if (given := asked.get(kinds.WORDS)) and given["relation"] == "at least":
        words += [text] * given["num_words"]
    filled = " ".join(map(str, words))
    if (given := asked.get(kinds.SENTENCES)) and given["relation"] == "at least":
        filled = " ".join([f"{filled}.", *[f"{text}.".capitalize()] * given["num_sentences"]])
    return filled


def _arranged(filled: str, text: str, asked: dict[str, dict[str, JsonValue]]) -> str:
    """Bullets, sections or paragraphs under it."""
    if kinds.BULLETS in asked:
        filled += f"\n* {text}" * asked[kinds.BULLETS]["num_bullets"]
    if given := asked.get(kinds.SECTIONS):
        numbers = range(1, given["num_sections"] + 1)
        filled += "".join(f"\n{given['section_spliter']} {number}\n{text}" for number in numbers)
    if given := asked.get(kinds.PARAGRAPHS):
        filled += f"\n***\n{text}" * (given["num_paragraphs"] - 1)
    if given := asked.get(kinds.FIRST_WORD):
        blocks = [filled, *[text] * (given["num_paragraphs"] - 1)]
        position = given["nth_paragraph"] - 1
        blocks[position] = f"{given['first_word']} {blocks[position]}"
        filled = "\n\n".join(blocks)
    return filled


def _wrapped(answer: str, text: str, asked: dict[str, dict[str, JsonValue]]) -> str:
    """What stands before, behind and around it, and the case of it all."""
    if kinds.TITLE in asked:
        answer = f"<<{text}>>\n{answer}"
    if kinds.TWO_RESPONSES in asked:
        answer = f"{answer}\n******\n{text} {text}"
    if kinds.POSTSCRIPT in asked:
        answer += f"\n{asked[kinds.POSTSCRIPT]['postscript_marker']} {text}"
    if kinds.END in asked:
        answer += f" {asked[kinds.END]['end_phrase']}"
    if kinds.JSON in asked:
        answer = json.dumps({"text": answer}, ensure_ascii=False)
    if kinds.REPEAT in asked:
        answer = f"{asked[kinds.REPEAT]['prompt_to_repeat']}\n\n{answer}"
    if kinds.QUOTATION in asked:
        answer = f'"{answer}"'
    if kinds.LOWERCASE in asked:
        return answer.lower()
    return answer.upper() if kinds.CAPITAL in asked else answer
