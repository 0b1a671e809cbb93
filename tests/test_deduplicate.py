"""Duplicates: what is found, against sets of strings and the theory of MinHash; what stays; that no grouping of the work shows."""

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from pretrainx.core.errors import InputError
from pretrainx.curate.deduplicate import clusters, columns, exact, find, index, lsh, near, shingles
from pretrainx.curate.deduplicate.near import Settings
from pretrainx.curate.documents import Batch, Document

# Letters that fold to several, merge with the next, or are words by themselves; spaces of other kinds.
ODD = "aAéßﬁİıſǰŉ½²…\u0301\u0308\u00a0\u2009\u00ad_09 \n.-漢字かながカﾞ한ᄒ\u1161นี้ไμµΣςॐक्षि\U0001d400\U00020000"
TEXTS = st.lists(st.text(st.sampled_from(ODD) | st.characters(exclude_categories=("Cs",)), max_size=60), max_size=6)


def batch(texts: Sequence[str], sources: Sequence[str] = ()) -> Batch:
    return Batch(
        [Document(str(i), text, f"#{i}", source) for i, (text, source) in enumerate(itertools.zip_longest(texts, sources, fillvalue=""))]
    )


def python_words(text: str) -> list[str]:
    return shingles.WORD.findall(shingles.fold(text))


def python_set(text: str, n: int) -> set[tuple[str, ...]]:
    words = python_words(text)
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, min(len(words), 1)))}


def jaccard(one: str, other: str, n: int) -> float:
    a, b = python_set(one, n), python_set(other, n)
    return len(a & b) / len(a | b) if a | b else 0.0


def prose(seed: int, words: int) -> str:
    """Words of Zipf-like frequency, as text: no two seeds have many 5-grams in common."""
    rng = random.Random(seed)
    return " ".join(f"w{int(rng.paretovariate(0.7))}" for _ in range(words))


def edited(text: str, rate: float, seed: int) -> str:
    """`rate` of the words, scattered, each another."""
    rng, words = random.Random(seed), text.split()
    for i in rng.sample(range(len(words)), max(1, round(rate * len(words)))):
        words[i] = f"new{rng.randrange(10**9)}"
    return " ".join(words)


def pairs_of(found: dict[str, np.ndarray]) -> dict[int, int]:
    return dict(zip(found["index"].tolist(), found["kept"].tolist(), strict=True))


@settings(max_examples=200)
@given(TEXTS)
def test_words_are_those_that_a_regular_expression_finds_in_folded_text(texts: list[str]) -> None:
    found = shingles.words(batch(texts))
    expected = [python_words(text) for text in texts]
    assert np.diff(found.bounds).tolist() == list(map(len, expected))
    names: dict[int, str] = {}
    hashes: dict[str, int] = {}
    for value, word in zip(found.values.tolist(), itertools.chain(*expected), strict=True):
        assert names.setdefault(value, word) == word and hashes.setdefault(word, value) == value


@settings(max_examples=100)
@given(TEXTS, st.integers(1, 4))
def test_words_do_not_depend_on_the_batch(texts: list[str], n: int) -> None:
    whole = shingles.sets(shingles.shingles(shingles.words(batch(texts)), n))
    for i, text in enumerate(texts):
        alone = shingles.sets(shingles.shingles(shingles.words(batch([text])), n))
        assert np.array_equal(whole.of(i), alone.of(0))


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab é\u0301ﬁ漢"), max_size=40), st.text(st.sampled_from("ab é\u0301ﬁ漢"), max_size=40), st.integers(1, 3))
def test_similarity_is_that_of_sets_of_strings(one: str, other: str, n: int) -> None:
    setting = Settings(ngram=n, min_jaccard=0.0)
    sets = [near.shingle_sets([batch([one, other])], setting)]
    pair = {"first": np.array([0]), "second": np.array([1])}
    found = near.verify([pair], sets, 0, setting)
    a, b = python_set(one, n), python_set(other, n)
    assert found["jaccard"].tolist() == [len(a & b) / len(a | b) if a | b else 0.0]
    assert found["containment"].tolist() == [len(a & b) / len(b) if b else 0.0]


@settings(max_examples=300)
@given(st.text(st.sampled_from(ODD) | st.characters(exclude_categories=("Cs",)), max_size=60))
def test_positions_lead_back_to_the_characters_of_a_word(text: str) -> None:
    values, starts, ends = shingles.positions(text)
    assert np.array_equal(values, shingles.words(batch([text])).values)
    assert (starts < ends).all() and (starts >= 0).all() and (ends <= len(text)).all()
    assert (np.diff(starts) >= 0).all()
    for start, end, word in zip(starts.tolist(), ends.tolist(), python_words(text), strict=True):
        assert word in shingles.fold(text[start:end])


def test_positions_by_hand() -> None:
    text = "Ein ﬁnes Cafe\u0301, 漢字!"
    _, starts, ends = shingles.positions(text)
    assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == ["Ein", "ﬁnes", "Cafe\u0301", "漢", "字"]


def test_signatures_are_minima_of_permutations() -> None:
    values = np.random.default_rng(0).integers(0, 2**64, 23, np.uint64)
    found = shingles.Hashes(values, np.array([0, 0, 1, 10, 23]))
    got = lsh.signatures(found, 600, seed=3)
    a, b = (part.astype(np.uint64) for part in lsh.permutations(600, 3))
    for d in range(4):
        expected = [(a * x + b) % 2**32 for x in found.of(d) % 2**32]
        assert np.array_equal(got[d], np.min(expected, 0) if expected else np.full(600, 2**32 - 1))


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (64, 3), (64, 4)])
@pytest.mark.parametrize("similarity", [0.2, 0.4, 0.6, 0.8])
def test_candidates_follow_the_theoretical_curve(bands: int, rows: int, similarity: float) -> None:
    """2,000 pairs of sets of this Jaccard similarity; the share that meets in a band lies within 4 standard deviations of a binomial."""
    pairs, size = 2000, 200
    common = round(2 * size * similarity / (1 + similarity))
    drawn = np.random.default_rng(7).integers(0, 2**64, (pairs, 2 * size - common), np.uint64)
    one, other = drawn[:, :size], drawn[:, size - common :]
    exact = common / (2 * size - common)
    keys = [
        lsh.band_keys(lsh.signatures(shingles.Hashes(part.ravel(), np.arange(pairs + 1) * size), bands * rows, 0), bands, rows)
        for part in (one, other)
    ]
    met = (keys[0] == keys[1]).any(1).mean()
    expected = lsh.chance(exact, bands, rows)
    assert abs(met - expected) <= 4 * np.sqrt(expected * (1 - expected) / pairs) + 1 / pairs
    # and single minima estimate the similarity itself
    minima = [lsh.signatures(shingles.Hashes(part.ravel(), np.arange(pairs + 1) * size), 256, 0) for part in (one, other)]
    assert abs((minima[0] == minima[1]).mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / (256 * pairs))


@pytest.mark.parametrize(
    ("preset", "least"),
    [
        ("default", {0.01: 1.0, 0.05: 0.99, 0.1: 0.85}),
        ("sensitive", {0.01: 1.0, 0.05: 1.0, 0.1: 0.99, 0.2: 0.9}),
        ("fineweb", {0.01: 0.97}),
    ],
)
def test_planted_copies_are_found_and_nothing_else(preset: str, least: dict[float, float]) -> None:
    texts = [prose(i, 150 + i % 300) for i in range(400)]
    for rate, share in least.items():
        copies = [edited(text, rate, i) for i, text in enumerate(texts[:200])]
        found = pairs_of(find.find([*texts, *copies], near.preset(preset)))
        assert all(index == kept + 400 for index, kept in found.items())  # each drop is a copy, for its original
        assert len(found) >= share * 200


def test_what_is_dropped_is_near_what_is_kept_and_by_exactly_that_much() -> None:
    texts = [prose(i, 120) for i in range(30)]
    texts += [edited(text, rate, i) for i, text in enumerate(texts) for rate in (0.02, 0.08, 0.12)]
    found = find.find(texts)
    assert len(found["index"]) > 50
    for dropped, kept, similarity in zip(found["index"], found["kept"], found["similarity"], strict=True):
        assert similarity == jaccard(texts[dropped], texts[kept], 5) >= 0.35
        assert kept not in found["index"]


def test_a_chain_loses_its_middle_only() -> None:
    """A ~ B ~ C with A and C unlike: dropping by connected components would lose C, which is like nothing that is kept."""
    words = prose(1, 200).split()
    a, b, c = (" ".join(words[i : i + 100]) for i in (0, 35, 70))
    assert jaccard(a, b, 5) > 0.4 < jaccard(b, c, 5) and jaccard(a, c, 5) < 0.3
    assert pairs_of(find.find([a, b, c])) == {1: 0}
    assert pairs_of(find.find([b, a, c])) == {1: 0, 2: 0}
    assert pairs_of(find.find([a, c, b])) == {2: 1 if jaccard(c, b, 5) > jaccard(a, b, 5) else 0}


def greedy(texts: Sequence[str], setting: Settings) -> dict[int, int]:
    """What is promised, in as few words as Python has: by order of keeping, drop what is near an earlier one that stays, for the
    nearest of them; what has the very words of an earlier one shares its fate."""
    kept: list[int] = []
    dropped: dict[int, int] = {}
    order = sorted(range(len(texts)), key=lambda i: (-len(texts[i]) if setting.keep == "longest" else 0, i))
    first: dict[tuple[str, ...], int] = {}
    for i in order:
        equal = first.setdefault(tuple(python_words(texts[i])), i)
        if equal != i and python_words(texts[i]):
            dropped[i] = dropped.get(equal, equal)
            continue
        best = max(kept, key=lambda k: jaccard(texts[k], texts[i], setting.ngram), default=i)
        if best != i and python_words(texts[i]) and jaccard(texts[best], texts[i], setting.ngram) >= setting.min_jaccard:
            dropped[i] = best
        else:
            kept.append(i)
    return dropped


@pytest.mark.parametrize("keep", ["first", "longest"])
@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join), max_size=14))
def test_the_choice_is_the_greedy_one(keep: str, texts: list[str]) -> None:
    # 128 bands of one row: that two texts of Jaccard >= .5 meet in none has the chance 2^-128
    setting = Settings(ngram=1, bands=128, rows=1, min_jaccard=0.5, keep=keep)
    assert pairs_of(find.find(texts, setting)) == greedy(texts, setting)


def corpus() -> list[str]:
    texts = [prose(i, 40 + i) for i in range(60)]
    texts += [edited(text, 0.05, i) for i, text in enumerate(texts[:30])] + texts[10:25] + ["", "...", "short", "Short!", "short"]
    random.Random(0).shuffle(texts)
    return texts


@pytest.mark.parametrize("keep", ["first", "longest", "source"])
def test_neither_batches_nor_shards_nor_partitions_show(keep: str) -> None:
    texts = corpus()
    sources = [["web", "books", "else"][len(text) % 3] for text in texts]
    setting = Settings(keep=keep, sources=("books", "web"))
    whole = find.find([batch(texts, sources)], setting)
    assert len(whole["index"]) >= 45
    for size, shards, rows in [(1, 7, 100), (10, 3, 1000), (50, 2, 64), (200, 1, 500)]:
        parts = [batch(texts[i : i + size], sources[i : i + size]) for i in range(0, len(texts), size)]
        found = find.find(parts, setting, shards=shards, rows_at_once=rows)
        assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_small_limits_of_memory_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus()
    whole = find.find(texts)
    monkeypatch.setattr(near, "_MINIMA_AT_ONCE", 1000)
    monkeypatch.setattr(near, "_KEYS_AT_ONCE", 700)
    monkeypatch.setattr(near, "_PAIRS_AT_ONCE", 3)
    monkeypatch.setattr(near, "_HASHES_AT_ONCE", 100)
    monkeypatch.setattr(clusters, "_PAIRS_AT_ONCE", 4)
    monkeypatch.setattr(clusters, "_ROWS_AT_ONCE", 5)
    found = find.find(texts)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_files_give_what_memory_gives(tmp_path: Path) -> None:
    texts, setting = corpus(), Settings()
    shards = [[batch(texts[i::3])] for i in range(3)]

    def run(keep: Any) -> dict[str, np.ndarray]:
        sketches = [keep(near.sketch(shard, setting), f"sketch-{i}") for i, shard in enumerate(shards)]
        pairs = [keep(near.candidates(sketches, keys, setting), f"pairs-{i}") for i, keys in enumerate(near.partitions(sketches, 500))]
        assert len(pairs) > 5
        sets = [keep(near.shingle_sets(shard, setting, near.members(pairs, i)), f"sets-{i}") for i, shard in enumerate(shards)]
        verified = [keep(near.verify(pairs, sets, i, setting), f"near-{i}") for i in range(3)]
        return clusters.representatives(verified, sketches)

    memory = run(lambda table, name: table)
    files = run(lambda table, name: columns.write(tmp_path / name, table))
    assert len(memory["place"]) > 30
    assert all(np.array_equal(memory[name], files[name]) for name in memory)
    dropped = columns.write(tmp_path / "dropped", files)
    mine = columns.in_shard(dropped, "place", ["place", "kept"], 1)
    assert np.array_equal(mine[0], memory["place"][(memory["place"] >> 32) == 1])
    assert sum((size - 1) * count for size, count in clusters.sizes(dropped).items()) == len(memory["place"])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_preferred_copy_stays() -> None:
    text = prose(0, 100)
    three = [edited(text, 0.02, 1), text + " " + prose(9, 20), edited(text, 0.02, 2)]
    assert pairs_of(find.find(three)) == {1: 0, 2: 0}
    assert pairs_of(find.find(three, Settings(keep="longest"))).keys() == {0, 2}
    named = [batch(three, ["web", "web", "books"])]
    assert pairs_of(find.find(named, Settings(keep="source", sources=("books", "web")))) == {0: 2, 1: 2}
    assert pairs_of(find.find(named, Settings(keep="source", sources=("books",)))) == {0: 2, 1: 2}


def test_an_index_drops_its_copies_and_loses_nothing() -> None:
    setting = Settings(keep="longest")
    old = [[batch([prose(0, 100), prose(0, 100), prose(1, 100)])]]
    new = [[batch([prose(2, 90), edited(prose(1, 100), 0.03, 1) + " and some longer end"])], [batch([prose(2, 90), prose(0, 100)])]]
    sketches = [near.sketch(shard, setting) for shard in (*old, *new)]
    pairs = [near.candidates(sketches, keys, setting, index=1) for keys in near.partitions(sketches)]
    sets = [near.shingle_sets(old[0], setting), *(near.shingle_sets(s, setting, near.members(pairs, 1 + i)) for i, s in enumerate(new))]
    verified = [near.verify(pairs, sets, shard, setting) for shard in range(3)]
    dropped = clusters.representatives(verified, sketches, index=1)
    found = dict(zip(dropped["place"].tolist(), dropped["kept"].tolist(), strict=True))
    at = lambda shard, i: shard << 32 | i  # noqa: E731
    assert found == {at(1, 1): at(0, 2), at(2, 0): at(1, 0), at(2, 1): at(0, 0)}


def test_a_text_repeated_often_costs_no_more_than_its_number() -> None:
    """1,000 equal documents make 999 pairs, 1,000 that merely share a band at most 2 * reach each."""
    setting = Settings()
    copies = [batch([prose(0, 50)] * 1000)]
    sketches = [near.sketch(copies, setting)]
    pairs = [near.candidates(sketches, keys, setting) for keys in near.partitions(sketches, 1000)]
    assert sum(len(part["first"]) for part in pairs) <= 999 * len(pairs)
    assert set(pairs_of(find.find(copies)).values()) == {0} and len(find.find(copies)["index"]) == 999
    like = [" ".join(["all"] * 60 + [f"x{i}"]) for i in range(300)]
    sketches = [near.sketch([batch(like)], dataclasses.replace(setting, reach=4))]
    pairs = [near.candidates(sketches, keys, dataclasses.replace(setting, reach=4)) for keys in near.partitions(sketches)]
    assert 299 <= sum(len(part["first"]) for part in pairs) <= 300 * 8 * 64
    assert set(pairs_of(find.find(like, Settings(reach=4, min_jaccard=0.1, rows=1))).values()) == {0}


def test_every_pair_of_a_small_band_and_a_linear_number_of_a_large_one() -> None:
    for size, reach in itertools.product((1, 2, 5, 9, 40), (1, 2, 4)):
        one, other = near._pair(np.arange(size), np.array([0, size]), reach, int(near._count_pairs(np.array([size]), reach)[0]))
        expected = [(j, i) for i in range(size) for j in range(i) if j < reach or j >= i - reach]
        assert sorted(zip(one.tolist(), other.tolist(), strict=True)) == sorted(expected)
        if size <= 2 * reach + 1:
            assert len(expected) == size * (size - 1) // 2


def test_nothing_to_find() -> None:
    for texts in ([], [""], ["", "", "..."], ["a"], ["a", "b", "c d e f g h"]):
        assert pairs_of(find.find(texts)) == {}
    assert pairs_of(find.find(["a", "A!", "ａ"])) == {1: 0, 2: 0}


def test_containment_finds_a_text_quoted_whole() -> None:
    inner = prose(0, 100)
    outer = prose(1, 300) + " " + inner + " " + prose(2, 300)
    assert pairs_of(find.find([outer, inner])) == {}
    wide = Settings(bands=400, rows=1, min_containment=0.9)
    assert pairs_of(find.find([outer, inner], wide)) == {1: 0}
    assert pairs_of(find.find([inner, outer], wide)) == {}  # most of the longer text is nowhere else
    assert pairs_of(find.find([inner, outer], dataclasses.replace(wide, keep="longest"))) == {0: 1}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: near.preset("finweb"), ["deduplicate.near.preset", "did you mean 'fineweb'"]),
        (lambda: near.preset("fineweb", band=3), ["unknown setting 'band'", "did you mean 'bands'"]),
        (lambda: Settings(keep="longer"), ["keep = 'longer'", "did you mean 'longest'"]),
        (lambda: Settings(keep="source"), ["needs deduplicate.near.sources"]),
        (lambda: Settings(bands=0), ["bands = 0", "from 1"]),
        (lambda: Settings(min_jaccard=40), ["min_jaccard = 40", "from 0 to 1"]),
        (lambda: columns.column(Path("/nowhere"), "key"), ["/nowhere", "'key'", "not found"]),
    ],
)
def test_errors_name_what_is_wrong(make: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_a_cut_off_table_is_named(tmp_path: Path) -> None:
    folder = columns.write(tmp_path / "t", {"key": np.arange(100)})
    path = folder / "key.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="key.npy cannot be read"):
        columns.column(folder, "key")


def shared(name: str) -> Iterator[dict[str, Any]]:
    import gzip

    path = Path(__file__).parents[1].parent / "shared" / "data" / name
    if not path.exists():
        pytest.skip(f"real text is not here: {path}")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def test_real_chapters_are_no_duplicates_and_their_edited_copies_are() -> None:
    texts = [record["text"] for record in shared("pretrain/standardebooks.jsonl.gz")][:150]
    copies = [re.sub(r"\s+", " ", edited(text, 0.05, i)) for i, text in enumerate(texts)]
    assert pairs_of(find.find(texts)) == {}
    found = pairs_of(find.find([*texts, *copies]))
    assert found == {150 + i: i for i in range(150)}


def exact_pairs(
    parts: Sequence[Sequence[Batch]], folded: bool = False, rows: int = 8_000_000, index: int = 0, keep: str = "first"
) -> dict[int, int]:
    tables = [exact.documents(part, folded, Settings(keep=keep)) for part in parts]
    found = [exact.duplicates(tables, keys, index) for keys in exact.partitions(tables, rows)]
    return {int(a): int(b) for part in found for a, b in zip(part["place"], part["kept"], strict=True)}


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["a", "A", " a\n", "ﬁ", "fi", "e\u0301", "é", ""]), max_size=12), st.booleans(), st.integers(1, 4))
def test_equal_documents_are_those_that_a_dict_finds(texts: list[str], folded: bool, rows: int) -> None:
    first: dict[str, int] = {}
    expected = {}
    for i, text in enumerate(texts):
        name = exact.normal(text) if folded else text
        if first.setdefault(name, i) != i:
            expected[i] = first[name]
    assert exact_pairs([[batch(texts)]], folded, rows) == expected
    halves = [[batch(texts[: len(texts) // 2])], [batch([text]) for text in texts[len(texts) // 2 :]]]
    place = lambda i: i if i < len(texts) // 2 else 1 << 32 | i - len(texts) // 2  # noqa: E731
    assert exact_pairs(halves, folded, rows) == {place(a): place(b) for a, b in expected.items()}


def test_equal_documents_of_an_index_and_by_preference() -> None:
    assert exact_pairs([[batch(["a", "a"])], [batch(["b", "a", "b"])]], index=1) == {1 << 32 | 1: 0, 1 << 32 | 2: 1 << 32}
    assert exact_pairs([[batch(["A", "a ", "a"])]], folded=True, keep="longest") == {0: 1, 2: 1}


def test_hashes_are_those_of_another_implementation() -> None:
    import hashlib

    table = exact.documents([batch(["x", "é" * 1000])])
    rows = np.argsort(table["index"])
    for i, text in zip(rows, ["x", "é" * 1000], strict=True):
        assert table["key"][i].tobytes() + table["low"][i].tobytes() == hashlib.blake2b(text.encode(), digest_size=16).digest()


def passages_of(text: str, unit: str) -> list[str]:
    pieces = text.split("\n") if unit == "line" else re.split(r"\n[^\S\n]*(?=\n)", text)
    return [piece.strip() for piece in pieces if piece.strip()]


def without_repeated(parts: Sequence[Sequence[Batch]], form: exact.Passages, rows: int = 8_000_000) -> list[str]:
    tables = [exact.passages(part, form) for part in parts]
    found = [exact.repeated(tables, keys) for keys in exact.partitions(tables, rows)]
    place, number = (np.concatenate([table[name] for table in found]) for name in ("place", "number"))
    order = np.lexsort((number, place))
    drops = {"place": place[order], "number": number[order]}
    texts = []
    for shard, part in enumerate(parts):
        mine, numbers = columns.in_shard(drops, "place", ["place", "number"], shard)
        start = 0
        for each in part:
            shorter, lost = exact.cut(each, form, start, mine & 0xFFFFFFFF, numbers)
            assert lost.tolist() == [
                len(a) - len(b) if b else lost[i] for i, (a, b) in enumerate(zip(each.texts, shorter.texts, strict=True))
            ]
            texts += shorter.texts
            start += len(each)
    return texts


@pytest.mark.parametrize("unit", ["line", "paragraph"])
@settings(max_examples=80)
@given(st.lists(st.text(st.sampled_from("ab\n \t\u2003"), max_size=14), max_size=6), st.integers(1, 3), st.integers(1, 5))
def test_passages_seen_before_go_and_the_rest_stays(unit: str, texts: list[str], least: int, rows: int) -> None:
    seen: set[str] = set()
    expected = []
    for text in texts:
        kept = []
        for passage in passages_of(text, unit):
            if len(passage) < least or passage not in seen:
                kept.append(passage)
            if len(passage) >= least:
                seen.add(passage)
        expected.append(kept)
    form = exact.Passages(unit, least)
    found = without_repeated([[batch(texts)]], form)
    assert [passages_of(text, unit) for text in found] == expected
    assert [
        a for a, b, k in zip(texts, found, expected, strict=True) if a != b and k == passages_of(a, unit)
    ] == []  # untouched ones stay as they are
    assert without_repeated([[batch(texts[:2]), batch(texts[2:3])], [batch(texts[3:])]], form, rows) == found


def test_passages_by_hand() -> None:
    menu = "Home | Products | Contact | About us"
    texts = [f"{menu}\nFirst page.\n\n{menu}\n", f"  {menu}\t\nSecond page.\n{menu}", menu]
    assert without_repeated([[batch(texts)]], exact.Passages()) == [f"{menu}\nFirst page.\n\n", "Second page.\n", ""]
    paragraphs = ["One\nparagraph of two lines.\n\n\nAnother one.", "Other text.\n\nOne\nparagraph of two lines.\n \nEnd."]
    assert without_repeated([[batch(paragraphs)]], exact.Passages("paragraph", 10)) == [paragraphs[0], "Other text.\n\nEnd."]


def test_folded_texts_are_equal_where_only_style_differs() -> None:
    assert exact.normal(" It\u2019s \u00a0 a \u201cFINE\u201d\n\ufb01nish ") == exact.normal('it\'s a "fine" finish')
    assert exact.normal("It's") != exact.normal("Its")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_index_on_disk_stands_for_its_texts(tmp_path: Path, size: int) -> None:
    setting = Settings()
    old, new = corpus(), [edited(prose(3, 43), 0.03, 5), prose(99, 50), prose(4, 44)]
    for shard, texts in (("b", old[60:]), ("a", old[:60])):
        index.add(tmp_path, shard, [batch(texts[i : i + size]) for i in range(0, len(texts), size)], setting)
    kept = index.read(tmp_path, setting)
    assert len(kept) == 2 and kept.id(1 << 32 | 2) == str(2 % size)  # `batch` numbers from 0
    shard = [batch(new)]
    sketches = [*kept.near, near.sketch(shard, setting)]
    pairs = [near.candidates(sketches, keys, setting, index=2) for keys in near.partitions(sketches, 1000)]
    sets = [*kept.sets, near.shingle_sets(shard, setting, near.members(pairs, 2))]
    dropped = clusters.representatives([near.verify(pairs, sets, i, setting) for i in range(3)], sketches, index=2)
    whole = [old[:60], old[60:]]
    for place, by, similarity in zip(dropped["place"], dropped["kept"], dropped["similarity"], strict=True):
        assert similarity == jaccard(new[place - (2 << 32)], whole[by >> 32][by & 0xFFFFFFFF], 5)
    assert (dropped["place"] - (2 << 32)).tolist() == [0, 2]
    tables = [*kept.exact, exact.documents(shard, folded=True)]
    equal = [exact.duplicates(tables, keys, index=2) for keys in exact.partitions(tables)]
    assert [int(place) for part in equal for place in part["place"]] == [2 << 32 | 2]


def test_an_index_of_other_settings_is_refused(tmp_path: Path) -> None:
    index.add(tmp_path, "a", [batch(["some text"])], Settings())
    index.add(tmp_path, "b", [], Settings(min_jaccard=0.9, keep="longest"))  # on these the tables do not depend
    for act, words in (
        (lambda: index.read(tmp_path, Settings(ngram=3)), "ngram = 5 there, 3 here"),
        (
            lambda: index.add(tmp_path, "c", [], Settings(bands=3), folded=False),
            "bands = 64 there, 3 here, folded = True there, False here",
        ),
        (lambda: index.read(tmp_path / "gone", Settings()), "deduplication index not found"),
    ):
        with pytest.raises(InputError, match=words):
            act()
    empty = tmp_path / "empty"
    index._agree(empty, Settings(), True, write=True)
    with pytest.raises(InputError, match="holds no shard"):
        index.read(empty, Settings())


def test_chinese_is_compared_by_characters() -> None:
    """Two prints of one poem (Wu Zetian, 7th century): with runs of letters as words each line would be one."""
    one = "荷恩承顧託，執契恭臨撫。\n廟畧靜邊荒，天兵耀神武。\n有截資先化，無爲遵舊矩。\n禎符降昊穹，大業光寰宇。"
    other = "荷恩承顧託，執契恭臨撫。\n廟略靜邊荒，天兵曜神武。\n有截資先化，無爲遵舊矩。\n禎符降昊穹，大業光寰宇。"
    assert len(python_words(one)) == 40
    assert pairs_of(find.find([one, other, "君不見黃河之水天上來，奔流到海不復回。君不見高堂明鏡悲白髮，朝如青絲暮成雪。"])) == {1: 0}
