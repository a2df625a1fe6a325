"""Several machines at one task: who is there, what they exchange, and how the loss of one is noticed.

Arrays travel through `mx.distributed`. The room knows no model and no run; those that use it hand in what is
to be computed.
"""
