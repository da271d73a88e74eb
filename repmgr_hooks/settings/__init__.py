"""What the configuration file may say, as values."""
