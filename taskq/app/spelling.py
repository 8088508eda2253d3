"""The ways a setting's name may be spelt: new, old, with a prefix, and nearly right.

Before the journey: `settings.py` looks values up by these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskq.app.defaults import GUIDE_NAMES, OLD_NAME_OF, OLD_NAMES, OPTIONS, SETTING_KEYS
from taskq.exceptions import ImproperlyConfigured

__all__ = ["Spelling", "refuse_mixed_names", "within_two_letters"]

FMT_REPLACE_SETTING = "{replace:<36} -> {with_}"

E_MIX_OLD_INTO_NEW = """
New and old names of settings cannot be mixed. Most are new here;
please give these their new names as well:

{renames}
"""

E_MIX_NEW_INTO_OLD = """
New and old names of settings cannot be mixed. Most are old here;
please give these their old names:

{renames}

or give all the others their new names.
"""

_ALIASES: dict[str, list[str]] = {}
for _alias, _name in GUIDE_NAMES.items():
    _ALIASES.setdefault(_name, []).append(_alias)


class Spelling:
    """How names are spelt in one application.

    Arguments:
        prefix: what names begin with in the configuration source, with or without its `_`.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = prefix.rstrip("_") + "_" if prefix else ""
        self._known: dict[str, tuple[str, ...]] = {}

    def canonical(self, key: str) -> str:
        """The new name of a setting, whichever way it is spelt; other keys stay."""
        if key in OPTIONS:
            return key
        if self.prefix and key.startswith(self.prefix):
            bare = key[len(self.prefix) :].lower()
            if bare in OPTIONS:
                return bare
        return OLD_NAMES.get(key) or GUIDE_NAMES.get(key, key)

    def of(self, name: str) -> tuple[str, ...]:
        """All spellings of a canonical name, the preferred one first."""
        spellings = self._known.get(name)
        if spellings is None:
            spellings = self._known[name] = tuple(dict.fromkeys(self._list(name)))
        return spellings

    def _list(self, name: str) -> Iterator[str]:
        if self.prefix:
            yield self.prefixed(name)
        yield name
        if name in OLD_NAME_OF:
            yield OLD_NAME_OF[name]
        yield from _ALIASES.get(name, ())

    def prefixed(self, name: str) -> str:
        """The name as it stands in a source with this prefix."""
        return self.prefix + (name.upper() if self.prefix.isupper() else name)

    def listed(self, key: str) -> str | None:
        """The name `key` is listed under; None if it is private or belongs to others."""
        name = self.canonical(key)
        if name.startswith("_"):
            return None
        if name in OPTIONS or not self.prefix:
            return name
        if key.startswith(self.prefix):
            return key[len(self.prefix) :].lower()
        # Beside ours stand the settings of the framework the prefix keeps us apart from.
        return None if key.isupper() else key

    def old_names_in(self, keys: Iterable[str]) -> set[str]:
        """The old names among `keys`."""
        if not self.prefix:
            return {key for key in keys if key in OLD_NAMES}
        ours = {self.prefixed(name) for name in OPTIONS}
        return {key for key in keys if key in OLD_NAMES and key not in ours}


def refuse_mixed_names(
    keys: Iterable[str],
    new_names: Iterable[str] | None = None,
    old_names: Iterable[str] | None = None,
) -> None:
    """Raise ImproperlyConfigured when new and old names stand in one source.

    The style with more keys is taken for the wanted one. A name of the other style does not count
    when its twin is there too.
    """
    found = set(keys)
    new = found.intersection(SETTING_KEYS if new_names is None else new_names)
    old = found.intersection(OLD_NAMES if old_names is None else old_names)
    if len(old) > len(new):
        left = sorted(name for name in new if OLD_NAME_OF[name] not in old)
        message, names = E_MIX_NEW_INTO_OLD, OLD_NAME_OF
    else:
        left = sorted(name for name in old if OLD_NAMES[name] not in new)
        message, names = E_MIX_OLD_INTO_NEW, OLD_NAMES
    if left and new and old:
        renames = [FMT_REPLACE_SETTING.format(replace=key, with_=names[key]) for key in left]
        raise ImproperlyConfigured(message.format(renames="\n".join(renames)))


def within_two_letters(key: str, spelling: Spelling) -> str | None:
    """The known setting that differs from `key` in one or two letters, as `key` should be spelt."""
    best: tuple[int, str] | None = None
    for name in OPTIONS:
        for known in spelling.of(name):
            distance = _edits(key, known, 2)
            if distance <= 2 and (best is None or distance < best[0]):
                best = distance, known
    return best[1] if best else None


def _edits(a: str, b: str, limit: int) -> int:
    """Letters to insert, delete, replace or swap to make `b` of `a`; counted up to `limit`."""
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        last, before, row = before, row, [i]
        for j, right in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return row[-1]
