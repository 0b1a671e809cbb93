"""Personal data masked: mail addresses, telephone numbers, IP addresses, numbers of payment cards (Luhn's check, ISO/IEC 7812-1)."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w@-]|\.[A-Za-z0-9])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-]|\.\d)")
# International, or with an area code that is set apart: +44 20 7946 0958, (555) 010-9999, 555-010-9999, 030/1234567.
_PHONE = re.compile(
    r"(?<![\w.+/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}-\d{3}-\d{4}|\d{3}\.\d{3}\.\d{4}|0\d{2,4}/\d{5,8})(?![\w-]|\.\d|/\d)"
)


@dataclass(frozen=True)
class Step:
    """What is masked, and by what; the masks are words, so that a model sees that something was there.

    Only addresses that say something of a person are masked: no loopback, private or documentation networks.
    """

    emails: bool = True
    phones: bool = True
    ips: bool = True
    cards: bool = True
    email_mask: str = "<EMAIL>"
    phone_mask: str = "<PHONE>"
    ip_mask: str = "<IP>"
    card_mask: str = "<CARD>"

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        counts = dict.fromkeys(("emails", "cards", "ips", "phones"), 0)
        texts = [self._mask(text, counts) for text in batch.texts]
        return with_texts(batch, texts), {name: count for name, count in counts.items() if count}

    def _mask(self, text: str, counts: dict[str, int]) -> str:
        def mask(name: str, pattern: re.Pattern[str], word: str, holds: Callable[[str], bool] = bool) -> None:
            nonlocal text

            def replace(match: re.Match[str]) -> str:
                if not holds(match[0]):
                    return match[0]
                counts[name] += 1
                return word

            text = pattern.sub(replace, text)

        if self.emails and "@" in text:
            mask("emails", _EMAIL, self.email_mask)
        if self.cards and _DIGITS.search(text):
            mask("cards", _CARD, self.card_mask, is_card)
        if self.ips:
            if "." in text:
                mask("ips", _IPV4, self.ip_mask, is_public_address)
            if ":" in text:
                mask("ips", _IPV6, self.ip_mask, is_public_address)
        if self.phones and _DIGITS.search(text):
            mask("phones", _PHONE, self.phone_mask, lambda found: 7 <= sum(c.isdigit() for c in found) <= 15)
        return text


_DIGITS = re.compile(r"\d{2}")
_GROUPS = ([4, 4, 4, 4], [4, 6, 5], [4, 6, 4], [4, 4, 4, 4, 3])
_ISSUERS = re.compile("4|5[0-8]|2[2-7]|3[0-9]|6")  # the first digits of those in use


def is_card(text: str) -> bool:
    """Whether digits (spaces or hyphens between groups) pass Luhn's check and begin and are grouped as a card's do.

    One number in ten passes the check by chance, so that alone it would mask many a number of tables and code.

    >>> is_card("4111 1111 1111 1111"), is_card("4111 1111 1111 1112"), is_card("0000 0000 0000 0000")
    (True, False, False)
    """
    groups = [len(group) for group in re.split("[ -]", text)]
    if (groups not in _GROUPS and not (len(groups) == 1 and 13 <= groups[0] <= 19)) or not _ISSUERS.match(re.sub("[ -]", "", text)):
        return False
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [digit if index % 2 == 0 else digit * 2 - 9 * (digit > 4) for index, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def is_public_address(text: str) -> bool:
    """Whether this is an IP address, and none that every network has for itself.

    >>> is_public_address("8.8.8.8"), is_public_address("192.168.1.1"), is_public_address("1.2.3.400"), is_public_address("2001:4860::88")
    (True, False, False, True)
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_private or address.is_loopback or address.is_link_local or address.is_unspecified)
