"""The way of an event: routes, observe, decide, plan, apply, observe again."""
