"""What is true and what happened, for people and for machines."""
