"""Says of any queue class which clauses of the standard queues' contract it keeps.

From the command line, ``python -m shmqueue.conformance --target module:factory``. In a test tree of one's own, subclass
``shmqueue.conformance.testing.QueueConformance``. From code, ``suite.run_suite``.

``clauses`` and ``profiles`` say what is promised, ``workers`` carry out operations in other processes, ``trial``
judges them step by step beside a model and ``machine`` draws the steps; ``traffic`` lets processes run freely and
``history`` judges what they logged; ``scenarios`` are small fixed programs. The modules named ``leasing`` do all that
for leases, with a queue that has them. Nothing here knows how a queue is made.
"""
