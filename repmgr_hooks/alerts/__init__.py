"""Who is told what is wrong: conditions and cases (both pure), then alarm, outbox, targets and send, in that order."""
