"""Cleaning: repairs are those of ftfy, sound text stays as it is, personal data is masked, each step by hand and as a property."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="cleaning needs pretrainx[curate]")

from pretrainx.core.errors import InputError
from pretrainx.curate.clean import boilerplate, mojibake, personal_data, unicode, whitespace
from pretrainx.curate.documents import Batch, Document

STEPS: dict[str, Any] = {
    "unicode": unicode.Step(), "nfkc": unicode.Step(form="NFKC"), "whitespace": whitespace.Step(), "boilerplate": boilerplate.Step(),
    "personal_data": personal_data.Step(),
}  # fmt: skip


def batch_of(*texts: str) -> Batch:
    return Batch([Document(str(number), text, f"here#{number + 1}") for number, text in enumerate(texts)])


def clean(step: Any, text: str) -> str:
    return str(step.apply(batch_of(text))[0].texts[0])


SOUND = [
    "Plain ASCII text.", "Déjà vu à Zürich; «così», „gut“ — naïve café…", "Съешь ещё этих мягких французских булок, «да» — №1",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία", "日本語の文章です。中文也一样。", "한국어 문장", "Zażółć gęślą jaźń", "Příliš žluťoučký kůň",
    "½ of 3 × 4 ± 2°C, £5–€6 ©2020",
    "şöyle böyle çığ", "Ça va? Ñandú, ¿qué?", "Tiếng Việt có dấu", "fœtus, œuvre",
]  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "sound"),
    [
        ("dÃ©jÃ\xa0 vu", "déjà vu"),
        ("The Mona Lisa doesnâ€™t have eyebrows.", "The Mona Lisa doesn’t have eyebrows."),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚, Ð¼Ð¸Ñ€", "Привет, мир"),
        ("Ã¼ber GrÃ¶ÃŸe", "über Größe"),
    ],
)
def test_mojibake_by_hand(broken: str, sound: str) -> None:
    pytest.importorskip("ftfy", reason="repairs need pretrainx[curate]")
    mended, counts = mojibake.Step().apply(batch_of("sound", broken, "also soünd"))
    assert mended.texts == ["sound", sound, "also soünd"] and counts == {"documents_repaired": 1}


def test_mojibake_leaves_sound_text_alone() -> None:
    pytest.importorskip("ftfy", reason="repairs need pretrainx[curate]")
    batch = batch_of(*SOUND)
    mended, counts = mojibake.Step().apply(batch)
    assert mended is batch and counts == {}


@given(
    st.lists(st.sampled_from(SOUND), min_size=1, max_size=4),
    st.sampled_from(["cp1252", "latin-1", "cp1251", "mac_roman", "cp437"]),
    st.integers(0, 40),
)
@settings(max_examples=200)
def test_what_ftfy_would_repair_is_seen(parts: list[str], codec: str, start: int) -> None:
    """The fast look passes on every text that ftfy changes: same results as ftfy alone."""
    ftfy = pytest.importorskip("ftfy", reason="repairs need pretrainx[curate]")
    text = "\n".join(parts)
    broken = text.encode().decode(codec, "replace")[start:]
    for candidate in (broken, broken + " " + text, text[start:]):
        assert clean(mojibake.Step(), candidate) == ftfy.fix_encoding(candidate)


@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=0x2600), max_size=12))
@settings(max_examples=500)
def test_nothing_suspicious_escapes(text: str) -> None:
    badness = pytest.importorskip("ftfy.badness", reason="repairs need pretrainx[curate]")
    if badness.is_bad(text):
        assert mojibake.suspicious(batch_of("a", text)).tolist() == [1]


def test_ftfy_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(InputError, match=r"pretrainx\[curate\]"):
        mojibake.Step().apply(batch_of("x"))


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        (unicode.Step(), "e\u0301te\u0301 ﬁn", "été ﬁn"),
        (unicode.Step(form="NFKC"), "ﬁn Ａ x²", "fin A x2"),
        (unicode.Step(form="none"), "e\u0301", "e\u0301"),
        (unicode.Step(), "a\x00b\x07c\td\r\ne\rf\x0b", "abc\td\ne\nf"),
        (unicode.Step(), "\ufeffzero\u200bwidth\u00ad and \u202eback", "zerowidth and back"),
        (unicode.Step(), "می\u200cخواهم a\u200db 👩\u200d🚀", "می\u200cخواهم ab 👩\u200d🚀"),
        (unicode.Step(), "bad \ud800 half", "bad \ufffd half"),
        (whitespace.Step(), "\n \n  code\t \n\tmore  \n\n\n\n\n\nend \n", "  code\n\tmore\n\n\nend"),
        (whitespace.Step(max_blank_lines=0), "a\n\n\nb", "a\nb"),
        (whitespace.Step(), "no\u00a0break\u2028line", "no break\nline"),
        (whitespace.Step(strip=False, line_ends=False), " a \n", " a \n"),
        (boilerplate.Step(), "Home\nA story.\n» Next page »\nShare this!\nIt ends.", "A story.\nIt ends."),
        (boilerplate.Step(), "Text.\n© 2020 Some Company. All rights reserved.\nThis site uses cookies to be better.", "Text."),
        (boilerplate.Step(phrases=("Buy now",)), "BUY NOW!\nText.", "Text."),
        (personal_data.Step(), "Write to jane.doe+x@mail.example.org.", "Write to <EMAIL>."),
        (personal_data.Step(), "user@localhost, a@b, @handle, x@@y.de", "user@localhost, a@b, @handle, x@@y.de"),
        (personal_data.Step(), "from 8.8.4.4 and 192.168.0.1, 127.0.0.1, 300.1.1.1 to 2001:4860:4860::8888, v1.2.3.4.5",
         "from <IP> and 192.168.0.1, 127.0.0.1, 300.1.1.1 to <IP>, v1.2.3.4.5"),
        (personal_data.Step(), "pay 4111 1111 1111 1111 or 4111111111111112", "pay <CARD> or 4111111111111112"),
        (personal_data.Step(), "call +44 20 7946 0958 or (555) 010-9999, 555-010-9999.", "call <PHONE> or <PHONE>, <PHONE>."),
        (personal_data.Step(), "in 2019-2020, 1,000,000 of 3.14159 at 12:30:45 on 2021-03-04",
         "in 2019-2020, 1,000,000 of 3.14159 at 12:30:45 on 2021-03-04"),
        (personal_data.Step(emails=False), "a@b.de", "a@b.de"),
    ],
)  # fmt: skip
def test_steps_by_hand(step: Any, text: str, expected: str) -> None:
    assert clean(step, text) == expected


@given(st.text(max_size=200), st.sampled_from(sorted(STEPS)))
@settings(max_examples=500)
def test_a_clean_text_stays_clean(text: str, name: str) -> None:
    """A step applied twice does no more than once, and leaves the other documents alone."""
    step = STEPS[name]
    once = clean(step, text)
    assert clean(step, once) == once
    assert step.apply(batch_of("Sound text.", text, ""))[0].texts == ["Sound text.", once, ""]


@given(st.text(max_size=100))
@settings(max_examples=300)
def test_unicode_leaves_printable_valid_text(text: str) -> None:
    out = clean(unicode.Step(), text + "\ud83d")
    out.encode("utf-8")
    assert unicodedata.is_normalized("NFC", out)
    assert not [c for c in out if unicodedata.category(c) == "Cc" and c not in "\t\n\x85"]
    kept = [c for c in unicodedata.normalize("NFC", text) if c.isprintable() and c.isascii()]
    assert [c for c in out if c.isprintable() and c.isascii()] == kept


@given(st.lists(st.integers(0, 9), min_size=12, max_size=17))
def test_luhn_against_its_definition(digits: list[int]) -> None:
    """Exactly one last digit completes a number, and masks depend on it."""
    body = "4" + "".join(map(str, digits))
    passing = [last for last in range(10) if personal_data.is_card(f"{body}{last}")]
    total = sum(sum(divmod(2 * int(d), 10)) if index % 2 == 0 else int(d) for index, d in enumerate(reversed(body)))
    assert passing == [-total % 10]


def test_counts_and_untouched_batches() -> None:
    batch = batch_of("Plain text.", "More of it.")
    for step in STEPS.values():
        assert step.apply(batch) == (batch, {}) and step.apply(batch)[0] is batch
    mended, counts = unicode.Step().apply(batch_of("a\x00b", "c\r\nd\x01\u200b"))
    assert mended.texts == ["ab", "c\nd"] and counts == {"line_ends": 1, "control_characters": 2, "zero_width": 1}


def test_documents_keep_all_but_their_text() -> None:
    document = Document("name", "a\x00b", "file#3", "web", {"url": "u"})
    after = unicode.Step().apply(Batch([document]))[0].documents[0]
    assert (after.id, after.origin, after.source, after.metadata) == ("name", "file#3", "web", {"url": "u"})
