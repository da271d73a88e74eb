"""What is true: the nodes' answers, and which of them is the primary."""
