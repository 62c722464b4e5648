"""Sizes that are taken where nobody gave one."""

from ttc.runtime.decoding.limits import CAPACITY_BUCKETS, PREFILL_CHUNK, capacity_bucket, fitting_chunk
from ttc.runtime.interface.backend import Limits


def test_capacity_is_the_first_bucket_that_holds():
    assert [capacity_bucket(tokens) for tokens in (1, 128, 129, 4096)] == [128, 128, 256, 4096]
    assert [capacity_bucket(tokens) for tokens in (4097, 8192, 8193)] == [8192, 8192, 12288]
    assert list(CAPACITY_BUCKETS) == sorted(set(CAPACITY_BUCKETS))


def test_a_chunk_is_no_longer_than_a_call_can_read():
    limits = Limits(batch=(1, 1), block=(1, 16), reads=(1, 32), positions=(1, 16), capacity=(1, 256))
    assert fitting_chunk(None) == PREFILL_CHUNK
    assert fitting_chunk(limits) == 32
    assert fitting_chunk(limits, 8) == 8
