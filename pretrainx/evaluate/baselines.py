"""Counted n-gram baselines of a mixture: the line that a small model must beat."""

from collections.abc import Iterator, Sequence

from pretrainx.core.logs import log
from pretrainx.data.cache import TokenCache
from pretrainx.data.loader import Mixture
from pretrainx.evaluate import ngram

MAX_TRAINING_BYTES = 64_000_000  # of all corpora together, from their starts: enough for order 7, and some 3 GB of memory


def documents(cache: TokenCache, limit: int) -> Iterator[bytes]:
    """The texts of a split in order, until `limit` bytes."""
    total = 0
    for index in range(cache.num_documents):
        text = cache.vocabulary.decode_bytes(cache.read(*cache.document_span(index)))
        total += len(text)
        yield text
        if total > limit:
            return


def bits_per_byte(train: Mixture, held_out: Mixture, orders: Sequence[int]) -> dict[str, float]:
    """{"eval/<source>/ngram_<order>/bits_per_byte"} of each held-out corpus, and of `all`, under one set of counts.

    Nothing where the vocabulary loses text (WordPiece), since the bytes are not there to count.
    """
    if not orders or not train.vocabulary.lossless:
        return {}
    caches = {s.corpus: s.windows.cache for s in train.sources}
    log(f"counting byte n-grams of order {min(orders)} to {max(orders)} as baselines")
    limit = MAX_TRAINING_BYTES // len(caches)
    model = ngram.train(ngram.join(text for cache in caches.values() for text in documents(cache, limit)))
    texts = {s.corpus: list(documents(s.windows.cache, MAX_TRAINING_BYTES)) for s in held_out.sources}
    if len(texts) > 1:
        texts["all"] = [text for corpus in list(texts) for text in texts[corpus]]
    found = {}
    for corpus, held in texts.items():
        for order, bits in ngram.bits_per_byte(model, ngram.join(held), orders).items():
            found[f"eval/{corpus}/ngram_{order}/bits_per_byte"] = bits
    return found
