"""What can be done to the outside: steps, and the host that carries them out."""
