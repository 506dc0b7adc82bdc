"""What made-up IFEval responses are made of: sentences with traps for splitters, and languages."""

from collections.abc import Mapping

SENTENCES = (
    "The train leaves at 7.30 a.m. and arrives before noon.",
    "Dr. Alvarez met Mrs. Chen on Oct. 4 at the U.S. embassy.",
    "It costs $3.50, or about 3,36 euros; nobody complained.",
    'She asked, "Are you sure?" and he said nothing.',
    "We can't go, but they'll manage without John's help!",
    "Bread, milk and honey were on the table (as always).",
    "NASA and the BBC were QUITE surprised by the result.",
    "What would you do if it rained all week?",
    "Well... that is one way to look at it.",
    "No. 5 is ready. No one took it.",
    "J. S. Bach wrote music for the church; it is still played.",
    "Visit www.example.com or write to someone@example.com today.",
    "A well-known rule - keep it short - helps here.",
    "i.e. the second one, e.g. a pear, works as well.",
    "“Curly quotes end here.” Then it goes on.",
    "Prof. Lee (Ph.D.) cannot come; IT'S TOO LATE.",
    "Everything was quiet in the old house near the river.",
    "Please send the form to Acme Inc. by Friday.",
    "First, open the box: then read the manual.",
    "Wait!! Is that true?! I think so.",
)
PLAIN = (
    "the garden is green and quiet in the morning",
    "people walk along the river and talk about their day",
    "this small idea helps a team to work well together",
    "every story needs a good start and a clear end",
    "the children found an old map under the stairs",
)
LANGUAGES: Mapping[str, str] = {
    "en": "This is a short text about the weather and the people of our town.",
    "de": "Das ist ein kurzer Text über das Wetter und die Menschen in unserer Stadt.",
    "fr": "Ceci est un petit texte sur le temps et les habitants de notre ville.",
    "es": "Este es un texto breve sobre el tiempo y la gente de nuestra ciudad.",
    "it": "Questo è un breve testo sul tempo e sulla gente della nostra città.",
    "pt": "Este é um pequeno texto sobre o tempo e as pessoas da nossa cidade.",
    "fi": "Tämä on lyhyt teksti säästä ja kaupunkimme ihmisistä.",
    "vi": "Đây là một đoạn văn ngắn về thời tiết và con người của thành phố chúng ta.",
    "sw": "Haya ni maandishi mafupi kuhusu hali ya hewa na watu wa mji wetu.",
    "ru": "Это короткий текст о погоде и людях нашего города.",  # noqa: RUF001
    "bg": "Това е кратък текст за времето и хората в нашия град.",  # noqa: RUF001
    "ar": "هذا نص قصير عن الطقس والناس في مدينتنا.",
    "fa": "این یک متن کوتاه درباره آب و هوا و مردم شهر ما است.",
    "ur": "یہ ہمارے شہر کے موسم اور لوگوں کے بارے میں ایک مختصر تحریر ہے۔",  # noqa: RUF001
    "hi": "यह हमारे शहर के मौसम और लोगों के बारे में एक छोटा सा लेख है।",
    "mr": "हा आमच्या शहरातील हवामान आणि लोकांबद्दल एक छोटा मजकूर आहे.",
    "ne": "यो हाम्रो सहरको मौसम र मानिसहरूको बारेमा एउटा छोटो लेख हो।",
    "bn": "এটি আমাদের শহরের আবহাওয়া এবং মানুষ সম্পর্কে একটি ছোট লেখা।",
    "pa": "ਇਹ ਸਾਡੇ ਸ਼ਹਿਰ ਦੇ ਮੌਸਮ ਅਤੇ ਲੋਕਾਂ ਬਾਰੇ ਇੱਕ ਛੋਟਾ ਲੇਖ ਹੈ।",
    "gu": "આ આપણા શહેરના હવામાન અને લોકો વિશે એક નાનો લેખ છે.",
    "ta": "இது நமது நகரத்தின் வானிலை மற்றும் மக்களைப் பற்றிய ஒரு சிறிய உரை.",
    "te": "ఇది మన నగరం యొక్క వాతావరణం మరియు ప్రజల గురించి ఒక చిన్న వచనం.",
    "kn": "ಇದು ನಮ್ಮ ನಗರದ ಹವಾಮಾನ ಮತ್ತು ಜನರ ಬಗ್ಗೆ ಒಂದು ಸಣ್ಣ ಪಠ್ಯ.",
    "th": "นี่คือข้อความสั้น ๆ เกี่ยวกับอากาศและผู้คนในเมืองของเรา",
    "ko": "이것은 우리 도시의 날씨와 사람들에 대한 짧은 글입니다.",
    "ja": "これは私たちの町の天気と人々についての短い文章です。",
    "zh": "这是一篇关于我们城市的天气和人们的短文。",
}
