"""A switchover there and back that is graded: what became of the transactions of a client that writes all the time."""
