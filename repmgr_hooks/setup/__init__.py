"""``init``: finds out what is there, renders every file, puts them in place."""
