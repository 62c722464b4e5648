"""`ttc profile`: where the time goes. `ttc.profiling.run.profile` is the way in.

phases            the calls that are timed: prefill chunk, denoise step, extension, AR step, diffusion step
onnxruntime       times of the nodes, by ONNX Runtime's profiler
eager             times of the layers and ops of the torch backend
engines           times of the layers of TensorRT engines and of the kernels between them
engine_profiler   sees those layers and kernels while they run
engine_parts      finds the model's layers in them
engine_times      engines by themselves, timed: `ttc run`
timing            calls by the clock
costs             what each part must at least read and compute
report            the parts, added up by layer, kind and op
trace, plot       a trace for Perfetto or Chrome, a picture
"""
