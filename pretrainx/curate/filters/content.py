"""Words and addresses that a corpus is not to hold: the user's lists by language, and a small list of our own."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch, Document

# Languages that are written without spaces: a listed word counts inside any other text.
_UNSPACED = ("ja", "th", "zh", "lo", "km", "my")
# Words of advertisements for pornography, casinos and pills, which make a page worthless; no words of ordinary quarrels.
_DEFAULT = {
    "en": (
        "xxx", "porn", "porno", "pornhub", "camgirl", "camgirls", "milf", "hentai", "gangbang", "blowjob", "creampie", "bukkake", "cumshot",
        "viagra", "cialis", "levitra", "online casino", "casino bonus", "free spins", "sportsbook", "escort service", "escort girls",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """Drops a document with more than `max_words` listed words for each thousand of its words, or whose address is listed.

    A list is a file with one word or phrase a line (# begins a comment), matched without regard to case, between characters
    that are no letters. The language is the document's metadata["language"], else `language`.
    """

    words: dict[str, str] = field(default_factory=dict)  # language -> file
    urls: str = ""  # file of hosts (with all below them) and of host/path beginnings, for metadata["url"]
    use_default_words: bool = True
    language: str = "en"  # of documents that do not say theirs
    max_words: Annotated[float, Range(ge=0)] = 5.0
    min_matches: Annotated[int, Range(ge=1)] = 2  # different listed words that a document has at least, to be dropped

    def __post_init__(self) -> None:
        for path in self.files():
            if not Path(path).is_file():
                raise ValueError(f"list file not found: {path!r} (looked from {Path.cwd()})")

    def files(self) -> tuple[str, ...]:
        return (*self.words.values(), *([self.urls] if self.urls else ()))

    def reasons(self, batch: Batch) -> list[str]:
        return [self._reason(document) for document in batch.documents]

    def _reason(self, document: Document) -> str:
        url = document.metadata.get("url")
        if self.urls and isinstance(url, str) and is_listed(url, _lines(self.urls)):
            return "content/url"
        language = document.metadata.get("language")
        language = language if isinstance(language, str) else self.language
        pattern = _pattern(self._list(language), language in _UNSPACED)
        if pattern is None:
            return ""
        found = pattern.findall(document.text.casefold())
        if len(set(found)) >= self.min_matches and len(found) * 1000 > self.max_words * _size(document.text, language):
            return "content/words"
        return ""

    def _list(self, language: str) -> frozenset[str]:
        mine = frozenset(word.casefold() for word in _lines(self.words[language])) if language in self.words else frozenset()
        return mine | frozenset(_DEFAULT.get(language, ()) if self.use_default_words else ())


def is_listed(url: str, entries: Iterable[str]) -> bool:
    """Whether the host, a domain above it, or the host with the beginning of the path is listed.

    >>> is_listed("https://www.ads.example.com/x/y?z", {"example.com"})
    True
    >>> is_listed("http://a.b/x/y", {"a.b/x"}), is_listed("http://a.b/xy", {"a.b/x"})
    (True, False)
    """
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = (parts.hostname or "").rstrip(".")
    except ValueError:  # such as an unfinished IPv6 address
        return False
    labels, path = host.split("."), [part for part in parts.path.split("/") if part]
    domains = {".".join(labels[index:]) for index in range(len(labels))}
    return any(
        domain in entries or any("/".join([domain, *path[:depth]]) in entries for depth in range(1, len(path) + 1)) for domain in domains
    )


def _size(text: str, language: str) -> float:
    """Words, or a third of the characters in languages without spaces."""
    return len(text) / 3 if language in _UNSPACED else len(text.split())


def _lines(path: str) -> frozenset[str]:
    return _read(path, files.stamp(path))


@functools.lru_cache(maxsize=64)
def _read(path: str, _: tuple[int, ...]) -> frozenset[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"content filter: list {path} cannot be read: {error}") from None
    lines = (line.partition("#")[0].strip().rstrip("/") for line in text.splitlines())
    return frozenset(re.sub(r"^\w+://", "", line) for line in lines if line)


@functools.lru_cache(maxsize=64)
def _pattern(listed: frozenset[str], unspaced: bool) -> Any:
    """A pattern of all listed words, or None; longer ones first, so that a phrase is not taken for its beginning."""
    if not listed:
        return None
    words = "|".join(re.escape(word).replace("\\ ", r"\s+") for word in sorted(listed, key=lambda word: (-len(word), word)))
    return re.compile(words if unspaced else rf"(?<!\w)(?:{words})(?!\w)")
