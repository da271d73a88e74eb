"""How an event is handled: routes, dispatcher, executor; and how it would be: dry run, simulation."""
