"""Weights through the ring of pinned buffers: in order, each buffer filled again only when it was read."""

import threading

import numpy as np
import pytest

from tests.support.fake_device import FakeDevice
from ttc.errors import BundleError
from ttc.model.bundle import Bundle
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.weights import upload_weights, weight_bytes


class SlowDevice(FakeDevice):
    """Reads pinned memory as late as it may: when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.due, self.done, self.most_due = [], 0, 0

    def upload(self, target, source):
        self.due.append((target, source))
        self.most_due = max(self.most_due, len(self.due))

    def record_event(self):
        return self.name, self.done + len(self.due)

    def wait_for(self, event):
        super().wait_for(event)
        while self.done < event[1]:
            self._copy()

    def wait(self):
        while self.due:
            self._copy()
        super().wait()

    def _copy(self):
        target, source = self.due.pop(0)
        super().upload(target, source)
        self.done += 1


def names_of(bundle):
    return [name for name in bundle.weights if "layers.0." in name or "layers.1." in name]


@pytest.mark.parametrize("staging_bytes", [100, 4096])
@pytest.mark.parametrize("readers", [1, 3])
def test_a_buffer_is_filled_again_when_the_device_has_read_it(bundles, monkeypatch, staging_bytes, readers):
    monkeypatch.setattr("ttc.runtime.gpu.weights.usable_cores", lambda: readers)
    device, seen = SlowDevice(), []
    scope = Scope(device)
    with Bundle.open(bundles("tiny_a")) as bundle:
        names = names_of(bundle)
        arrays = upload_weights(bundle, names, scope, lambda *done: seen.append(done), staging_bytes)
        for name in names:
            np.testing.assert_array_equal(device.values(arrays[name]), bundle.read_weight(name), err_msg=name)
        total = weight_bytes(bundle, names)
    assert device.most_due == 2 * readers, "the device may be behind by the whole ring"
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert not device.pinned_bytes


def test_a_fault_of_a_reader_is_told_and_ends_the_others(bundles, monkeypatch):
    device = SlowDevice()
    scope = Scope(device)
    with Bundle.open(bundles("tiny_a")) as bundle:
        names = names_of(bundle)
        last = type(next(iter(bundle.weight_readers(names[-1]))))

        def fail(reader, target, begin):
            raise BundleError("the file was cut short")

        monkeypatch.setattr(last, "fill", fail)
        with pytest.raises(BundleError, match="cut short"):
            upload_weights(bundle, names, scope, None, 4096)
    assert not device.due, "no copy reads a buffer that is gone"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ttc-weights")]
    scope.close()
    assert not device.blocks
