"""What is wrong, and who hears of it: rules and incidents (both pure), then evaluator, notifier, receivers, deliver."""
