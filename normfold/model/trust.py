"""How far the files of a model are trusted: which links count as part of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from normfold.model.caps import DEFAULT_CAPS, Caps


class Links(StrEnum):
    """Which symbolic links may lead to external data.

    `deny`: none, between the directory of the model and the data. `hf`: those whose target lies in the directory of the
    model, or beside the target of the model if that is a link itself, as in the cache of the Hugging Face hub. `allow`:
    all. The model itself may always be a link: its name comes from the user and not from a file.
    """

    DENY = "deny"
    HF = "hf"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class Trust:
    """What is believed of a model.

    Args:
        links: which symbolic links may lead to external data.
        untrusted: the file comes from strangers. Data files with a second name (hard links) are refused instead of noted,
            and each session runs in a process of its own.
        caps: how large it may be.
    """

    links: Links = Links.HF
    untrusted: bool = False
    caps: Caps = DEFAULT_CAPS

    @property
    def is_strict(self) -> bool:
        """Whether all data files are looked at as soon as the model is read, whoever needs them."""
        return self.untrusted or self.links is Links.DENY

    @classmethod
    def of(cls, links: str | None, *, untrusted: bool, caps: Iterable[str] = ()) -> Trust:
        """The trust that options ask for: strangers get no links unless that is said.

        Raises:
            UsageError: as `Caps.of`.
        """
        return cls(Links(links) if links else Links.DENY if untrusted else Links.HF, untrusted, Caps.of(caps))
