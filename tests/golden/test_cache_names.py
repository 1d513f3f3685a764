"""Names of files in a host's cache: new ones would make every host of a running cluster do its work again."""

from loader.order.epochs import RemovedTokens
from loader.packing.best_fit import best_fit
from loader.packing.concat_split import BlockLayout
from loader.packing.grouped import GroupLayout


def test_the_texts_that_name_cached_files_are_those_that_they_were() -> None:
    assert RemovedTokens(3, 5, 77).cache_key() == "Removed(epoch=3, block=5, tokens=77)"
    assert BlockLayout(7, 2, (1,), (), None, (4, 9)).cache_key() == (
        "WholeBlock(block=7, epoch=2, before=(1,), after=(), key=None, left_out=(4, 9))"
    )
    group = GroupLayout("best_fit", best_fit, 4096, 3, range(12, 16), 1, (), (2,), 99, (), 55)
    assert group.cache_key() == (
        "PackedGroup(packing='best_fit', row_tokens=4096, group=3, blocks=range(12, 16), epoch=1, before=(), "
        "after=(2,), key=99, left_out=(), rows=55)"
    )
