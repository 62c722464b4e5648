"""`ttc plan --serve`: the runtime's core on a clock that nobody waits for, a cost model as its device.

lengths     how long prompts and answers are
arrivals    who comes when: Poisson, a closed loop of clients, a trace
behaviour   what a row does without logits: steps per block, accepted drafts, where its answer ends
costs       seconds of a call: from a machine's bandwidth and arithmetic, or measured
device      the device of such a core: outcomes from the behaviours, time from the costs
drive       arrivals into a core, a tick after the other, until all have ended
figures     latencies, throughput, rows, queue
server      what is simulated: a model on a machine, and how it is asked
service     a question about such a service, answered for every mode
search      how many replicas hold a load, and where the modes cross
recording   the calls of a real core, to be compared, or replayed

Every rule (admission, sharing of calls, seats, modes, ends of rows) is the runtime's own.
"""
