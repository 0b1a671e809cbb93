"""Which marks and words decide where English words begin and end: the same as in spaCy's rule-based English tokenizer.

datatrove counts the words of English text with it, and published thresholds were chosen by such counts. The sets were
found by that tokenizer's behaviour (version 3.8) and are written here in a shorter form.
"""

import unicodedata

import numpy as np

PUNCTUATION = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉\u2329\u232a⟦⟧"
CURRENCY = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
PREFIXES = "§%=—–" + PUNCTUATION + QUOTES + CURRENCY  # and a plus without a digit after it, and two dots or more
SUFFIXES = "—–" + PUNCTUATION + QUOTES
BEFORE_DOT = "%²-+|" + PUNCTUATION + QUOTES  # and digits and lower-case letters
INFIXES = ".…,+-*^:<>=/–—~"
_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa mbar mb MB "
    "kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб КБ кб Мб МБ "
    "мб Гб ГБ гб Тб ТБ тбكم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ كم غرام جرام جم كغ ملغ كوب اكواب"
)
UNITS = tuple(_UNITS.split())


def _characters(codes: str) -> str:
    """The characters of hexadecimal code points and ranges of them."""
    ranges = [part.partition("-") for part in codes.split()]
    return "".join(chr(code) for first, _, last in ranges for code in range(int(first, 16), int(last or first, 16) + 1))


# What ends a sentence, by script; the second list only counts at the end of a line.
SENTENCE_ENDS = _characters(
    "21 2e 3f 589 61f 6d4 700-702 7f9 964-965 104a-104b 1362 1367-1368 166e 1735-1736 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b "
    "1b5e-1b5f 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f "
    "a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 11047-11048 110be-110c1 11141-11143 "
    "111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e "
    "11a42-11a43 11a9b-11a9c 11c41-11c42 16a6e-16a6f 16af5 16b37-16b38 16b44 1bc9f 1da88 "
)
TERMINAL = SENTENCE_ENDS + _characters(
    "61d-61e 837 839 83d-83e 17d4-17d6 17d9-17da 1b7d-1b7e 2e53-2e54 10f55-10f59 10f86-10f89 11944 11946 11ef7-11ef8 11f43-11f44 16e98 "
)

# What a word may wholly consist of without being counted by Gopher's rules: marks, and control characters but for three.
SYMBOLS = "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»" + "".join(
    map(chr, [*range(9), 11, 12, *range(13, 32), *range(127, 160)])
)


def letters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Code points of letters, of lower-case and of upper-case ones; scripts without case count as both."""
    cased = []
    for first, last in _CASED:
        cased += [code for code in range(first, last + 1) if unicodedata.category(chr(code))[0] == "L"]
    cased += [ord(c) for c in _CYRILLIC_AND_GREEK]
    uncased = np.concatenate([np.arange(first, last + 1) for first, last in _UNCASED])
    case = np.array([unicodedata.category(chr(code)) for code in cased])
    every = np.array(cased)
    return (
        np.concatenate([every, uncased]),
        np.concatenate([every[(case == "Ll") | (every == 0x294)], uncased]),
        np.concatenate([every[case == "Lu"], uncased]),
    )


# Latin letters up to Unicode 11, without click letters and ligatures.
_CASED = (
    (0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x180, 0x1BF), (0x1C4, 0x24F), (0x250, 0x2AF), (0x1D00, 0x1D25),
    (0x1D6B, 0x1D77), (0x1D79, 0x1D9A), (0x1E00, 0x1EFF), (0x2C60, 0x2C7B), (0x2C7E, 0x2C7F), (0xA722, 0xA76F),
    (0xA771, 0xA787), (0xA78B, 0xA78E), (0xA790, 0xA7B9), (0xA7FA, 0xA7FA), (0xAB30, 0xAB5A), (0xAB60, 0xAB64),
    (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
)  # fmt: skip
_CYRILLIC_AND_GREEK = (
    "".join(map(chr, [*range(0x391, 0x3A2), *range(0x3A3, 0x3AA), *range(0x3B1, 0x3CA), *range(0x410, 0x450)])) + "ΆΈΊΌΏΉΎάίέόώήύ"
    + "ЀЁЃЄЅІЇЈЉЊЌЍѐёѓєѕіїјљњќѝҐґҖҗҢңҮүҺһӘәӨө"
)  # fmt: skip
# Scripts without case, by block: Hebrew, Arabic, Devanagari and its neighbours, Ethiopic, Hangul, kana, Han.
_UNCASED = (
    (0x591, 0x5F4), (0x620, 0x64A), (0x66E, 0x6D5), (0x6E5, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8BD), (0x900, 0x9FF), (0xB80, 0xCFF),
    (0xD80, 0xDFF), (0x1100, 0x137F), (0x2E80, 0x2FDF), (0x2FF0, 0x30FF), (0x31C0, 0x31EF), (0x3200, 0x4DBF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0xFB1D, 0xFBB1), (0xFBD3, 0xFD3D), (0xFD50, 0xFDC7), (0xFDF0, 0xFDFB), (0xFE30, 0xFE4F),
    (0xFE70, 0xFEFC), (0x1EE00, 0x1EEBB), (0x1F200, 0x1F2FF), (0x20000, 0x2A6DF), (0x2A700, 0x2EBEF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def special_words() -> dict[str, tuple[str, ...]]:
    """Words with the pieces that they are split into, one piece where other rules would have split them.

    >>> special_words()["cannot"], special_words()["Mr."]
    (('can', 'not'), ('Mr.',))
    """
    words: dict[str, tuple[str, ...]] = {}
    for endings, hosts in _CONTRACTIONS.items():
        for host in hosts.split():
            for first in {host, host[0].upper() + host[1:]}:
                pieces = (first, *endings.split())
                for quote in "'’":
                    quoted = tuple(piece.replace("'", quote) for piece in pieces)
                    words["".join(quoted)] = quoted
    for hour in range(1, 13):
        for half in ("am", "pm", "a.m.", "p.m."):
            words[f"{hour}{half}"] = (str(hour), half)
    for scale in "cfkCFK":
        words[f"°{scale}."] = ("°", scale, ".")
    words |= {"y'all": ("y'", "all"), "y’all": ("y’", "all"), "yall": ("y", "all")}
    for word in _ONE_PIECE.split():
        words[word] = (word,)
        if "'" in word:
            words[word.replace("'", "’")] = (word.replace("'", "’"),)
    for word in _NOT_SPECIAL.split():
        words.pop(word, None)
    return words


_PRONOUNS = "i you he she it we they"
_QUESTIONS = "who what when where why how there that this these those"
_PLURAL = "who what when where why how there these those"
_AUXILIARIES = "ca could did do does had may might must need ought sha should wo would"
_CONTRACTIONS = {
    "n't": f"{_AUXILIARIES} ai are dare has have is was were", "nt": f"{_AUXILIARIES} ai are dare has have is was were",
    "n't 've": _AUXILIARIES, "nt ve": _AUXILIARIES,
    "'ve": f"could might must not should would i you we they {_PLURAL}", "ve": f"could might must not should would i you we they {_PLURAL}",
    "'d": f"{_PRONOUNS} {_QUESTIONS}", "d": f"{_PRONOUNS} {_QUESTIONS}", "'d 've": f"{_PRONOUNS} {_QUESTIONS}",
    "d ve": f"{_PRONOUNS} {_QUESTIONS}", "'ll": f"{_PRONOUNS} {_QUESTIONS}", "ll": f"{_PRONOUNS} {_QUESTIONS}",
    "'ll 've": f"{_PRONOUNS} {_QUESTIONS}", "ll ve": f"{_PRONOUNS} {_QUESTIONS}",
    "'re": f"you we they {_PLURAL}", "re": f"you we they {_PLURAL}",
    "'s": "he she it let who what when where why how there that this", "s": "he she it who what when where why how there that this",
    "'m": "i", "m": "i", "'m a": "i", "m a": "i", "'d 'y": "how", "not": "can", "na": "gon", "ta": "got", "on": "c'm",
}  # fmt: skip
_NOT_SPECIAL = "Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore"
_ONE_PIECE = r"""
    ' '' — 'S ‘S ‘s 's 'd 'll 're 'em em ll 'nuff nuff 'Cause 'cause 'Cos 'cos 'Coz 'coz 'Cuz 'cuz 'bout <space> \") \n \t
    C++ and/or w/o a.m. p.m. e.g. E.g. E.G. i.e. I.e. I.E. vs. v.s. co. Ph.D. Ma'am ma'am O'clock o'clock Ol ol Ol' ol'
    Doin Doin' doin doin' Goin Goin' goin goin' Havin Havin' havin havin' Lovin Lovin' lovin lovin' Nothin Nothin' nothin nothin'
    Nuthin Nuthin' nuthin nuthin' Somethin Somethin' somethin somethin'
    Adm. Bros. Co. Corp. D.C. Dr. Gen. Gov. Inc. Jr. Ltd. Md. Messrs. Miss. Mo. Mont. Mr. Mrs. Ms. Mt. Prof. Rep. Rev. Sen. St.
    Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec.
    Ak. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Mich. Minn. N.C. N.D. N.H. N.J.
    N.M. N.Y. Neb. Nebr. Nev. Okla. Ore. Pa. S.C. Tenn. Va. Wash. Wis.
    a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
    (*_*) (-8 (-: (-; (-_-) (._.) (: (; (= (>_<) (^_^) (o: (¬_¬) (ಠ_ಠ) (╯°□°）╯︵┻━┻ )-: ): -_- -__- ._. 0.0 0.o 0_0 0_o 8) 8-) 8-D
    8D :'( :') :'-( :'-) :( :(( :((( :() :) :)) :))) :* :-( :-(( :-((( :-) :-)) :-))) :-* :-/ :-0 :-3 :-> :-D :-O :-P :-X :-] :-o
    :-p :-x :-| :-} :/ :0 :1 :3 :> :D :O :P :X :] :o :o) :p :x :| :} ;) ;-) ;-D ;D ;_; <.< </3 <3 <33 <333 =( =) =/ =3 =D =[ =] =|
    >.< >.> >:( >:o ><(((*> @_@ O.O O.o O_O O_o V.V V_V XD XDD [-: [: [= ]= ^_^ ^__^ ^___^ o.0 o.O o.o o_0 o_O o_o v.v v_v xD xDD
    ¯\(ツ)/¯ ಠ_ಠ ಠ︵ಠ
"""
