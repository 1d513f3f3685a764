"""A property that is computed once and kept, as functools has it from Python 3.12 on: without a lock.

Until then one lock of a property serves all instances of its class. A thread that computes it for one of them holds up
all others; and a process that is forked meanwhile, as a DataLoader's workers are, has that lock taken for ever by a
thread that it does not have (https://github.com/python/cpython/issues/87634). Two threads may compute the same value
twice here, of which the last one stays.
"""

import functools
from typing import Any, Self, TypeVar, overload

T = TypeVar("T", covariant=True)


class cached_property(functools.cached_property[T]):
    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Self | T:
        if instance is None:
            return self
        values, name = instance.__dict__, str(self.attrname)
        if name not in values:
            values[name] = self.func(instance)
        return values[name]  # type: ignore[no-any-return]
