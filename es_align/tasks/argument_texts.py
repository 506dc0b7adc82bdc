"""Phrases that an answer may be asked to end on, and languages that it may be asked for.

Training and held-out phrases are apart; none has a comma, as in `kind_wordings`.
"""

from collections.abc import Mapping

from es_align.tasks.wordings import Wordings

CLOSING_PHRASES = Wordings(
    train=(
        "That is all for now.",
        "Now you know it.",
        "Thanks for asking me.",
        "I hope this was useful.",
        "And so the story ends.",
        "Have a lovely afternoon.",
        "Would you like to hear more about this?",
        "What do you make of it?",
        "Please write back soon.",
        "Good luck!",
        "There is nothing left to say.",
        "Shall we talk about it tomorrow?",
    ),
    heldout=(
        "This concludes my short reply.",
        "Until we talk again.",
        "Enjoy the rest of today.",
        "Which part did you like best?",
        "Take care!",
    ),
)

LANGUAGES: Mapping[str, str] = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "bn": "Bengali",
    "de": "German",
    "el": "Greek",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fr": "French",
    "gu": "Gujarati",
    "hi": "Hindi",
    "it": "Italian",
    "kn": "Kannada",
    "ko": "Korean",
    "mr": "Marathi",
    "ne": "Nepali",
    "nl": "Dutch",
    "pa": "Punjabi",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "sv": "Swedish",
    "sw": "Swahili",
    "ta": "Tamil",
    "te": "Telugu",
    "th": "Thai",
    "tr": "Turkish",
    "ur": "Urdu",
    "vi": "Vietnamese",
}
