"""The benchmark: the same work through ShmQueue and ``multiprocessing.Queue``, round by round.

Other packages' queues take part by adapters that are not in this package: tests/peers in a checkout.

``workloads`` says what is measured, ``field`` which queues are there; ``runner`` measures, ``report`` keeps the
figures, ``tables`` and ``chart`` show them, and ``command`` puts all this together. Each measurement is a process of
its own, the ``stage``, and its children, the workers, which do ``work`` with ``kinds`` of items through one of the
``drivers``. What runs there imports nothing of the rest, and this package only by relative names: another interpreter,
which has other packages, can run it too.
"""
