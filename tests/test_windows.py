"""Windows over a token stream: nothing lost, nothing twice, documents marked where they are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, documents, encode, write_split

from pretrainx.data.cache import TokenCache
from pretrainx.data.windows import Windows
from pretrainx.objectives.examples import from_pieces


def stream_of(cache: TokenCache) -> np.ndarray:
    """The whole stream, document by document, made from the texts and not by the cache."""
    texts = documents()[:60]
    return np.concatenate([encode(text) for shard in (0, 1) for text in texts[shard::2]])


@pytest.mark.parametrize("length", [1, 61, 128, 1000, 4096, 5000, 10**6])
def test_windows_reconstruct_the_stream(topics: TokenCache, length: int) -> None:
    windows = Windows(topics, length)
    stream = stream_of(topics)
    indices = range(len(windows)) if length > 1 else range(0, len(windows), 97)
    parts = windows.read(list(indices))
    for index, window in zip(indices, parts, strict=True):
        start, stop = windows.span(index)
        assert np.array_equal(window.tokens[: stop - start], stream[start:stop])
        assert np.all(window.segment_ids[: stop - start] > 0)
        assert np.all(window.tokens[stop - start :] == BYTES.special.pad) and np.all(window.segment_ids[stop - start :] == 0)
        assert window.tokens.dtype == window.segment_ids.dtype == window.positions.dtype == np.int32
        assert len(window.tokens) == length
    assert windows.span(len(windows) - 1)[1] == len(stream)


@pytest.mark.parametrize("length", [37, 777])
def test_segments_are_the_documents(topics: TokenCache, length: int) -> None:
    windows, stream = Windows(topics, length), stream_of(topics)
    ends = np.flatnonzero(stream == BYTES.special.eos) + 1  # each document ends with its only end token
    number = np.searchsorted(ends, np.arange(len(stream)), side="right")
    for index, window in enumerate(windows.read(range(len(windows)))):
        start, stop = windows.span(index)
        mine = number[start:stop]
        assert np.array_equal(window.segment_ids[: stop - start], mine - mine[0] + 1)
        for segment in range(1, int(window.segment_ids.max()) + 1):
            assert np.array_equal(window.positions[window.segment_ids == segment], np.arange((window.segment_ids == segment).sum()))
        begins = start == 0 or number[start] != number[start - 1]
        assert window.first_input == (BYTES.special.start if begins else stream[start - 1])


def test_the_order_of_reading_does_not_matter(topics: TokenCache) -> None:
    windows = Windows(topics, 100)
    shuffled = [17, 3, len(windows) - 1, 3, 0]
    for index, together in zip(shuffled, windows.read(shuffled), strict=True):
        alone = windows.read([index])[0]
        assert np.array_equal(alone.tokens, together.tokens) and alone.first_input == together.first_input


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30), width=st.integers(1, 12), shards=st.integers(1, 3))
@settings(max_examples=25)
def test_ragged_and_empty_documents(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], width: int, shards: int) -> None:
    """Documents of a few bytes, also of none (an end token alone): each token in one window, each span clipped right."""
    texts = [chr(97 + i % 26) * n for i, n in enumerate(lengths)]
    cache = TokenCache(write_split(tmp_path_factory.mktemp("ragged"), "c", "train", texts, num_shards=shards))
    stream = np.concatenate([encode(text) for shard in range(shards) for text in texts[shard::shards]])
    windows = Windows(cache, width)
    parts = windows.read(range(len(windows)))
    assert np.array_equal(np.concatenate([w.tokens[w.segment_ids > 0] for w in parts]), stream)
    assert sum(int((w.positions == 0)[w.segment_ids > 0].sum()) for w in parts) >= len(texts)


def test_a_document_of_no_tokens_is_no_segment(tmp_path: Path) -> None:
    from pretrainx.data.cache import CachedDocument, write_manifest, write_shard

    empty = [
        CachedDocument(f"d{i}", "o", 0, {"targets": np.asarray(tokens, np.int32)})
        for i, tokens in enumerate(([], [5, 1], [], [], [6, 1], []))
    ]
    write_shard(tmp_path, 0, empty, ["targets"], 264)
    write_manifest(tmp_path, corpus="c", split="train", task_sha256="x", vocabulary=BYTES, num_shards=1, source={})
    (window,) = Windows(TokenCache(tmp_path), 6).read([0])
    assert window.tokens.tolist() == [5, 1, 6, 1, 0, 0]
    assert window.segment_ids.tolist() == [1, 1, 2, 2, 0, 0]
    assert window.positions.tolist() == [0, 1, 0, 1, 0, 0]


def test_from_pieces_pads_what_no_document_covers() -> None:
    window = from_pieces(np.asarray([9, 8, 7, 0], np.int32), [(0, 1), (1, 3)], first_input=4)
    assert window.segment_ids.tolist() == [1, 2, 2, 0] and window.positions.tolist() == [0, 0, 1, 0] and window.first_input == 4
