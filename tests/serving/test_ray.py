"""The Ray Serve application without a cluster; `benchmarks/serving_ray.py` runs one, and kills a replica."""

import asyncio
from types import SimpleNamespace

import pytest

from ttc.errors import InputError
from ttc.serving.adapters.affinity import ranked

pytest.importorskip("ray.serve", reason="needs ray: pip install 'twotower-compiler[ray]'")

from ttc.serving.adapters.ray import AffinityRouter, application  # where ray is


def test_arguments(mini):
    built = application({"bundle": str(mini), "replicas": "1", "max_replicas": "3", "max_rows": "4"})
    assert built is not None
    for arguments, says in (
        ({}, "no bundle"),
        ({"bundle": str(mini), "replicas": "two"}, "replicas is 'two'"),
        ({"bundle": str(mini), "rows": "4"}, "unknown argument 'rows'"),
        ({"bundle": str(mini), "max_rows": "many"}, "TTC_MAX_ROWS is 'many'"),
    ):
        with pytest.raises(InputError, match=says):
            application(arguments)


def test_the_router_goes_by_our_ranks():
    names = ["a", "b", "c"]
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in names]
    loads = {"a": 3, "b": 1, "c": None}
    router = object.__new__(AffinityRouter)
    router._replica_queue_len_cache = SimpleNamespace(get=lambda replica: loads[replica.unique_id])
    for key, attempt in (("session ada", 0), ("session ada", 1), ("", 0)):
        pending = SimpleNamespace(args=[key, attempt, None], routing_context=SimpleNamespace())
        ranks = asyncio.run(router.choose_replicas(replicas, pending))
        want = ranked(key, {"a": 3, "b": 1, "c": 0}, attempt)
        assert [[one.replica_id.unique_id for one in rank] for rank in ranks] == [[name] for name in want]
        assert pending.routing_context.should_backoff
