"""What happened, in SQLite; all SQL on the journal is here."""
