"""What becomes of an event: routes, dispatcher, executor; and what would: dry run, simulation."""
