"""How the events of a database host reach the gateways: its file, a queue for each gateway, and the words between."""
