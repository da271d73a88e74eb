"""What Barman has, compared with what the primary has."""
