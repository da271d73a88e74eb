"""What is made when the package is built: manual pages and shell completion. Nothing in it is written twice."""
