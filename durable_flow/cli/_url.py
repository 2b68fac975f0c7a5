"""The URLs of stores, as people see them."""

from __future__ import annotations

import re


def shown(url: str) -> str:
    """The URL of a store as it may be shown: without its password.

    >>> shown("postgresql://ann:secret@db/app?schema=shop")
    'postgresql://ann:***@db/app?schema=shop'
    """
    url = re.sub(r"(://[^/?#:@]*):[^/?#]*@", r"\1:***@", url)
    return re.sub(r"([?&](?:ssl)?password=)[^&#]*", r"\1***", url)
