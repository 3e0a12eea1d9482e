"""Records by their key, and by what else they are looked for: thousands of them, without looking at each."""

from collections.abc import Callable, Hashable
from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Indexed(dict[K, V]):
    """A dict of immutable values that `where` also finds by a word of theirs.

    `Indexed(job=lambda lease: lease.run.key)` answers `where("job", "12")` in a time that does not grow with the
    number of records. Changed by item assignment, `del`, `pop` and `clear` only.
    """

    def __init__(self, **words: Callable[[V], Hashable]) -> None:
        super().__init__()
        self._words = words
        self._found: dict[str, dict[Hashable, dict[K, V]]] = {name: {} for name in words}

    def where(self, name: str, word: Hashable) -> tuple[V, ...]:
        """The values of which that word is this, oldest key first."""
        return tuple(self._found[name].get(word, {}).values())

    def one(self, name: str, word: Hashable) -> V | None:
        """The first of them, or None."""
        return next(iter(self._found[name].get(word, {}).values()), None)

    def __setitem__(self, key: K, value: V) -> None:
        before = self.get(key)
        super().__setitem__(key, value)
        for name, word_of in self._words.items():
            word = word_of(value)
            if before is not None and word_of(before) != word:
                self._drop(name, word_of(before), key)
            self._found[name].setdefault(word, {})[key] = value

    def __delitem__(self, key: K) -> None:
        before = self[key]
        super().__delitem__(key)
        for name, word_of in self._words.items():
            self._drop(name, word_of(before), key)

    def pop(self, key: K, *default: Any) -> Any:
        """As a dict's."""
        if key not in self and default:
            return default[0]
        value = self[key]
        del self[key]
        return value

    def clear(self) -> None:
        """As a dict's."""
        for key in tuple(self):
            del self[key]

    def _drop(self, name: str, word: Hashable, key: K) -> None:
        keys = self._found[name][word]
        del keys[key]
        if not keys:
            del self._found[name][word]

    def _not_indexed(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("change an Indexed by item assignment: nothing else keeps its index")

    update = setdefault = popitem = __ior__ = _not_indexed
