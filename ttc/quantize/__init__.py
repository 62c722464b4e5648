"""`ttc quantize`: a checkpoint with its routed experts in 8 or 4 bits; `ttc.quantize.run.quantize` does it.

plan      what is written, tensor by tensor and file by file, before any value is read
work      one matrix or one tensor, from a file into a place in another
worker    the process that does such work
workers   several of them at once
modelopt  the files that say what is quantised, in ModelOpt's layout
texts     every file that holds no tensors
record    what was done: for this package, and as a model card for people
run       from a checkpoint to a checkpoint
"""
