"""The build side: data, student, teacher, distillation, quantisation, targets, bundles."""

import os

# Both are read when torch loads, so they are set before anything here imports it; who sets them has the last
# word. Threads that spin while they wait slow each other down several times over on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large tensors in huge pages: half the time of a softmax over a catalogue, on Linux.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
