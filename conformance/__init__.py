"""Says of any queue class whether it keeps the contract of the standard queues."""
