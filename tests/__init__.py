import sys

# Each part of a run is a Python of its own, and most import the same modules. These are compiled once, also where
# PYTHONDONTWRITEBYTECODE is set; what the tests start goes by the environment, as it is.
sys.dont_write_bytecode = False
