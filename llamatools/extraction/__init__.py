"""An adapter from the difference of two checkpoints.

pairs.py       which tensors stand opposite each other, and how two models differ in kind
choice.py      what becomes of each: factors, a copy in full, or nothing
crew.py        threads on which results do not depend
difference.py  a difference, read in blocks
factors.py     its best approximation of low rank
spool.py       factors on disk until all are known
config.py      adapter_config.json
extract.py     the line from end to end
"""
