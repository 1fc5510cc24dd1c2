"""Which samples a part has: whole batches, every sample once, in order."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from ctm.data.shards import TRUTH
from ctm.errors import ArtifactError
from ctm.pseudomasks.parts import share_of
from ctm.runtime.context import Part


@pytest.mark.parametrize("samples", [0, 1, 4, 5, 23, 24, 25, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
def test_parts_leave_no_sample_out_share_none_and_begin_with_a_batch(samples, batch_size, count):
    shares = [share_of(Part(k, count), samples=samples, batch_size=batch_size) for k in range(1, count + 1)]
    assert list(chain.from_iterable(shares)) == list(range(samples))
    assert all(share.start % batch_size == 0 for share in shares if share)
    batches = [-(-len(share) // batch_size) for share in shares]
    assert max(batches) - min(batches) <= 1


def test_the_share_of_a_split_is_a_split(tiny_shards):
    whole = tiny_shards.split("train")
    part = whole.between(range(5, 9))
    assert len(part) == 4
    assert part.name == "train"
    assert part.keys == whole.keys[5:9]
    assert [part.index_of(key) for key in part.keys] == [0, 1, 2, 3]
    assert np.array_equal(part.labels, whole.labels[5:9])
    assert np.array_equal(part.sizes, whole.sizes[5:9])
    assert part.members == whole.members
    for own, index in enumerate(range(5, 9)):
        assert part.georeference(own) == whole.georeference(index) is not None
        assert part.read(own, "npy") == whole.read(index, "npy")
        assert np.array_equal(part.mask(own, TRUTH), whole.mask(index, TRUTH))
    for stranger in (whole.keys[4], whole.keys[9]):
        with pytest.raises(ArtifactError, match="no sample"):
            part.index_of(stranger)
    assert len(whole.between(range(24, 24))) == 0
