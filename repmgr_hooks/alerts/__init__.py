"""What is wrong, and who is alerted: rules and incidents (both pure), then evaluator, notifier, receivers, deliver."""
