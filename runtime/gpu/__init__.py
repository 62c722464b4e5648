"""What the backends that keep everything on a GPU share: memory, static buffers, CUDA graphs, the block loop.

Everything here but `cuda.py` is plain bookkeeping over the small interface in `device.py`, and is tested on
the CPU with a device that stands in for the real one. `cuda.py` is written against cuda.core 1.2 and has not
run on a GPU yet.
"""
