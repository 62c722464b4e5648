"""Sizes that are taken where nobody gave one."""

import pytest

from tests.support.recording import Scripted
from ttc.runtime.decoding.limits import fitting_chunk
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.sizes import CPU_SIZES, GPU_SIZES


def test_capacity_is_the_first_bucket_that_holds():
    assert [CPU_SIZES.bucket(tokens) for tokens in (1, 128, 129, 4096)] == [128, 128, 256, 4096]
    assert [CPU_SIZES.bucket(tokens) for tokens in (4097, 8192, 8193)] == [8192, 8192, 12288]
    assert [GPU_SIZES.bucket(tokens) for tokens in (1, 513, 2049, 40000)] == [512, 2048, 4096, 65536]


@pytest.mark.parametrize("sizes", [CPU_SIZES, GPU_SIZES])
def test_sizes_fit_each_other(sizes):
    assert list(sizes.buckets) == sorted(set(sizes.buckets))
    assert sizes.chunk <= sizes.buckets[0]


def test_a_gpu_has_sizes_of_its_own(monkeypatch):
    for name, sizes in (("cpu", CPU_SIZES), ("cuda:1", GPU_SIZES), ("cuda:0,cuda:1", GPU_SIZES)):
        monkeypatch.setattr(Scripted, "device_name", name)
        assert Scripted.sizes.fget(Scripted) is sizes


def test_a_chunk_is_no_longer_than_a_call_can_read():
    limits = Limits(batch=(1, 1), block=(1, 16), reads=(1, 32), positions=(1, 16), capacity=(1, 256))
    assert fitting_chunk(None, 64) == 64
    assert fitting_chunk(limits, 64) == 32
    assert fitting_chunk(limits, 8) == 8
